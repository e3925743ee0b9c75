#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "backends/cpu/args_check.h"
#include "backends/cpu/common_ops.h"
#include "backends/cpu/cpu_device.h"

namespace trireme::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The k best of v, best first, ties to the lower index. A NaN counts as the lowest.
void top(const float* v, int n, int k, std::vector<int>& out) {
  out.resize(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  const auto better = [v](int a, int b) {
    const float x = std::isnan(v[a]) ? kNever : v[a], y = std::isnan(v[b]) ? kNever : v[b];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(out.begin(), out.begin() + k, out.end(), better);
  out.resize(static_cast<std::size_t>(k));
}

struct GateScratch {
  std::vector<float> score, choice, group;
  std::vector<int> picked, groups;
};

void gate_row(const MoeGateArgs& a, i64 t, GateScratch& s) {
  const int experts = static_cast<int>(a.logits.shape.cols()), size = experts / a.groups;
  const auto* const logits = static_cast<const float*>(a.logits.row(t));
  s.score.assign(logits, logits + experts);
  if (a.scoring == Scoring::kSigmoidBias) {
    for (float& v : s.score) v = 1.0f / (1.0f + std::exp(-v));
  } else {
    const float m = *std::max_element(s.score.begin(), s.score.end());
    float sum = 0;
    for (float& v : s.score) sum += v = std::exp(v - m);
    for (float& v : s.score) v /= sum;
  }
  s.choice = s.score;
  if (a.bias) {
    for (int e = 0; e < experts; ++e) s.choice[e] += static_cast<const float*>(a.bias.data)[e];
  }
  if (a.top_groups < a.groups) {
    s.group.clear();
    for (int g = 0; g < a.groups; ++g) {
      top(s.choice.data() + g * size, size, std::min(2, size), s.picked);
      float sum = 0;
      for (const int e : s.picked) sum += s.choice[g * size + e];
      s.group.push_back(sum);
    }
    top(s.group.data(), a.groups, a.top_groups, s.groups);
    for (int g = 0; g < a.groups; ++g) {
      if (std::find(s.groups.begin(), s.groups.end(), g) == s.groups.end())
        std::fill_n(s.choice.begin() + g * size, size, kNever);
    }
  }
  top(s.choice.data(), experts, a.top_k, s.picked);
  float sum = 0;
  for (const int e : s.picked) sum += s.score[e];
  for (int i = 0; i < a.top_k; ++i) {
    const std::size_t at = static_cast<std::size_t>(t * a.top_k + i);
    float w = s.score[s.picked[i]];
    if (a.normalise) w /= sum + 1e-20f;
    a.expert[at] = a.place.empty() ? s.picked[i] : a.place[static_cast<std::size_t>(s.picked[i])];
    a.weight[at] = w * a.routed_scale;
  }
}

}  // namespace

Status moe_gate(const MoeGateArgs& a, Stream& stream) {
  TRY(check(a));
  const i64 grain = std::max<i64>(1, 4096 / a.logits.shape.cols());
  cpu(stream).pool.parallel_for(a.logits.shape.rows(), grain, [&](i64 begin, i64 end, int) {
    GateScratch scratch;
    for (i64 t = begin; t < end; ++t) gate_row(a, t, scratch);
  });
  return {};
}

Status moe_permute(const MoePermuteArgs& a, Stream& stream) {
  TRY(check(a));
  std::vector<i32> next(static_cast<std::size_t>(a.experts) + 1, 0);
  for (const i32 e : a.expert)
    if (e >= 0) ++next[static_cast<std::size_t>(e) + 1];
  for (std::size_t e = 0; e < static_cast<std::size_t>(a.experts); ++e)
    a.expert_end[e] = next[e + 1] += next[e];
  for (std::size_t i = 0; i < a.expert.size(); ++i)
    a.row_of[i] = a.expert[i] < 0 ? -1 : next[static_cast<std::size_t>(a.expert[i])]++;
  for (std::size_t i = 0; i < a.expert.size() && !a.row_weight.empty(); ++i)
    if (a.row_of[i] >= 0) a.row_weight[static_cast<std::size_t>(a.row_of[i])] = a.weight[i];
  const i64 n = a.x.shape.cols(), grain = std::max<i64>(1, (16 << 10) / n);
  cpu(stream).pool.parallel_for(static_cast<i64>(a.expert.size()), grain, [&](i64 begin, i64 end, int) {
    for (i64 i = begin; i < end; ++i)
      if (a.row_of[static_cast<std::size_t>(i)] >= 0)
        std::memcpy(a.rows.mutable_row(a.row_of[static_cast<std::size_t>(i)]), a.x.row(i / a.top_k),
                    static_cast<std::size_t>(n) * 4);
  });
  return {};
}

Status moe_combine(const MoeCombineArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const i64 n = a.out.shape.cols(), grain = std::max<i64>(1, (16 << 10) / (n * a.top_k));
  s.pool.parallel_for(a.out.shape.rows(), grain, [&](i64 begin, i64 end, int) {
    for (i64 t = begin; t < end; ++t) {
      auto* const out = static_cast<float*>(a.out.mutable_row(t));
      if (!a.accumulate) std::fill(out, out + n, 0.0f);
      for (i64 i = t * a.top_k; i < (t + 1) * a.top_k; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (a.row_of[at] < 0) continue;
        const float weight = a.weight.empty() ? 1.0f : a.weight[at];
        s.kernels.scale_add(out, 1.0f, static_cast<const float*>(a.rows.row(a.row_of[at])), weight, n);
      }
    }
  });
  return {};
}

Status gather_rows(const GatherRowsArgs& a, Stream&) {
  TRY(check(a));
  for (std::size_t i = 0; i < a.rows.size(); ++i)
    std::memcpy(a.out.mutable_row(static_cast<i64>(i)), a.x.row(a.rows[i]),
                static_cast<std::size_t>(a.x.shape.cols()) * 4);
  return {};
}

Status kv_copy(const KvCopyArgs& a, Stream&) {
  TRY(check(a));
  for (const auto& l : a.layers) {
    const i64 token = l.layout.token_bytes(), block = token * kKvBlockTokens;
    auto* const data = static_cast<char*>(l.data);
    for (const auto& c : a.copies)
      if (c.from != c.to)
        std::memcpy(data + c.to * block, data + c.from * block, static_cast<std::size_t>(c.tokens * token));
  }
  return {};
}

}  // namespace trireme::cpu
