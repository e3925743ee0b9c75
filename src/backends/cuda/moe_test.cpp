#include "backends/cuda/moe.h"

#include <algorithm>
#include <numeric>

#include "backends/cuda/glue_test_util.h"

namespace trireme::cuda {
namespace {
using namespace testing_glue;

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct GateCase {
  i64 tokens;
  int experts, groups, top_groups, top_k;
  Scoring scoring;
  bool bias, normalise;
};

// What the CPU oracle chooses, and how near the nearest decision was to going the other way: gaps of 0 are
// ties, which both must break alike; the least other gap tells roundings of exp apart from faults.
struct Chosen {
  std::vector<int> expert;
  std::vector<float> weight;
  float gap = 1;
};

void top(const std::vector<float>& v, int k, std::vector<int>& out, float& gap) {
  out.resize(v.size());
  std::iota(out.begin(), out.end(), 0);
  const auto number = [&](int i) {
    const float x = v[static_cast<std::size_t>(i)];
    return std::isnan(x) ? kNever : x;
  };
  std::stable_sort(out.begin(), out.end(), [&](int a, int b) { return number(a) > number(b); });
  for (std::size_t i = 0; i < static_cast<std::size_t>(k) && i + 1 < out.size(); ++i) {
    const float d = number(out[i]) - number(out[i + 1]);
    if (d > 0) gap = std::min(gap, d);
  }
  out.resize(static_cast<std::size_t>(k));
}

Chosen choose(const GateCase& c, const float* logits, const std::vector<float>& bias) {
  Chosen out;
  std::vector<float> score(logits, logits + c.experts);
  if (c.scoring == Scoring::kSigmoidBias) {
    for (float& v : score) v = 1.0f / (1.0f + std::exp(-v));
  } else {
    const float m = *std::max_element(score.begin(), score.end());
    float sum = 0;
    for (float& v : score) sum += v = std::exp(v - m);
    for (float& v : score) v /= sum;
  }
  std::vector<float> choice = score;
  for (std::size_t e = 0; e < bias.size(); ++e) choice[e] += bias[e];
  const int size = c.experts / c.groups;
  if (c.top_groups < c.groups) {
    std::vector<float> group;
    std::vector<int> picked, groups;
    for (int g = 0; g < c.groups; ++g) {
      const std::vector<float> part(choice.begin() + g * size, choice.begin() + (g + 1) * size);
      float ignored = 1, sum = 0;
      top(part, std::min(2, size), picked, ignored);
      for (const int e : picked) sum += part[static_cast<std::size_t>(e)];
      group.push_back(sum);
    }
    top(group, c.top_groups, groups, out.gap);
    for (int g = 0; g < c.groups; ++g)
      if (std::find(groups.begin(), groups.end(), g) == groups.end())
        std::fill_n(choice.begin() + g * size, size, kNever);
  }
  top(choice, c.top_k, out.expert, out.gap);
  float sum = 0;
  for (const int e : out.expert) sum += score[static_cast<std::size_t>(e)];
  for (const int e : out.expert)
    out.weight.push_back(score[static_cast<std::size_t>(e)] / (c.normalise ? sum + 1e-20f : 1.0f) * 2.5f);
  return out;
}

void check_gate(const GateCase& c, bool ties, bool places) {
  const auto experts = static_cast<std::size_t>(c.experts), n = static_cast<std::size_t>(c.tokens * c.top_k);
  const auto row = static_cast<std::size_t>(c.experts + 5);
  std::vector<float> logits(static_cast<std::size_t>(c.tokens) * row, std::nanf("")), bias;
  // Few different values: most decisions are ties. All positive, so that no two sums of sigmoids are nearly
  // but not quite equal.
  for (std::size_t t = 0; t < static_cast<std::size_t>(c.tokens); ++t)
    for (std::size_t e = 0; e < experts; ++e)
      logits[t * row + e] = ties ? 0.25f + 0.5f * static_cast<float>(below(4)) : normal();
  if (c.bias)
    for (std::size_t e = 0; e < experts; ++e) bias.push_back(ties ? 0.0f : 0.1f * normal());
  const Both<float> x(logits), b(bias);
  std::vector<i32> place(experts);
  std::iota(place.begin(), place.end(), 1000);
  std::shuffle(place.begin(), place.end(), rng());
  const Both<i32> p(place);
  Both<i32> expert(n, -7);
  Both<float> weight(n, std::nanf(""));
  EXPECT_OK(moe_gate({.logits = ConstView(x.gpu.get(), DType::kF32, {c.tokens, c.experts}, c.experts + 5),
                      .bias = c.bias ? ConstView(b.gpu.get(), DType::kF32, {c.experts}) : ConstView(),
                      .scoring = c.scoring,
                      .groups = c.groups,
                      .top_groups = c.top_groups,
                      .top_k = c.top_k,
                      .normalise = c.normalise,
                      .routed_scale = 2.5f,
                      .place = places ? p.in() : In<i32>{},
                      .expert = expert.out(),
                      .weight = weight.out()},
                     *gpu_stream()));
  expert.down();
  weight.down();
  i64 compared = 0;
  for (std::size_t t = 0; t < static_cast<std::size_t>(c.tokens); ++t) {
    const Chosen want = choose(c, logits.data() + t * row, bias);
    if (want.gap < 1e-6f) continue;
    ++compared;
    for (std::size_t j = 0; j < want.expert.size(); ++j) {
      const std::size_t at = t * want.expert.size() + j;
      const int e = want.expert[j];
      ASSERT_EQ(expert.host[at], places ? place[static_cast<std::size_t>(e)] : e)
          << "token " << t << ", choice " << j << " of " << c.experts << " experts";
      ASSERT_NEAR(weight.host[at], want.weight[j], 1e-5f * want.weight[j]);
    }
  }
  ASSERT_GE(compared, c.tokens * 8 / 10);
}

TEST(CudaMoe, GateChoosesAsTheOracleDoes) {
  NEED_GPU();
  constexpr auto kSigmoid = Scoring::kSigmoidBias, kSoftmax = Scoring::kSoftmaxTopK;
  for (const GateCase& c :
       {GateCase{130, 256, 8, 4, 8, kSigmoid, true, true}, GateCase{17, 8, 1, 1, 2, kSoftmax, false, true},
        GateCase{3, 512, 16, 3, 32, kSigmoid, true, true}, GateCase{1, 64, 1, 1, 6, kSoftmax, true, false},
        GateCase{33, 24, 3, 2, 5, kSigmoid, true, false}, GateCase{9, 6, 6, 3, 3, kSigmoid, true, true},
        GateCase{200, 160, 8, 3, 6, kSoftmax, false, true},
        GateCase{5, 288, 1, 1, 9, kSigmoid, true, true}}) {
    check_gate(c, false, false);
    check_gate(c, true, false);
    check_gate(c, false, true);
  }
}

TEST(CudaMoe, GateTakesNanForTheLowest) {
  NEED_GPU();
  std::vector<float> logits(64, std::nanf(""));
  logits[40] = 1;
  logits[50] = 2;
  const Both<float> x(logits);
  Both<i32> expert(4, -7);
  Both<float> weight(4, 0);
  EXPECT_OK(moe_gate({.logits = ConstView(x.gpu.get(), DType::kF32, {1, 64}),
                      .bias = {},
                      .top_k = 4,
                      .place = {},
                      .expert = expert.out(),
                      .weight = weight.out()},
                     *gpu_stream()));
  EXPECT_EQ(expert.down(), (std::vector<i32>{50, 40, 0, 1}));
}

struct PermuteCase {
  i64 tokens, n;
  int experts, top_k;
  double nowhere;  // share of pairs that go nowhere
};

TEST(CudaMoe, PermuteIsStableAndCombineUndoesIt) {
  NEED_GPU();
  for (const PermuteCase& c :
       {PermuteCase{1, 24, 4, 2, 0}, PermuteCase{3, 80, 8, 3, 0.3}, PermuteCase{130, 7168, 256, 8, 0},
        PermuteCase{700, 208, 32, 8, 0.9}, PermuteCase{4999, 48, 3, 9, 0.1}, PermuteCase{17, 37, 5, 32, 0.2},
        PermuteCase{40, 64, 1, 1, 0}, PermuteCase{20, 144, 512, 8, 1}}) {
    const i64 pairs = c.tokens * c.top_k;
    const auto n = static_cast<std::size_t>(pairs);
    std::vector<i32> experts;
    for (i64 i = 0; i < pairs; ++i)
      experts.push_back(std::uniform_real_distribution<>(0, 1)(rng()) < c.nowhere ? -1 : below(c.experts));
    const Both<i32> expert(experts);
    Both<i32> row_of(n, -7), ends(static_cast<std::size_t>(c.experts), -7);
    const bool quantised = c.n % 16 == 0;
    Rows x(c.tokens, c.n, 8), rows(pairs, c.n), out(c.tokens, c.n, 8);
    x.randomise();
    QuantRows xq(c.tokens, c.n), rows_q(pairs, c.n);
    for (u8& b : xq.codes.host) b = static_cast<u8>(below(126));
    for (float& s : xq.scale.host) s = normal();
    xq.codes.up();
    xq.scale.up();
    EXPECT_OK(moe_permute({.x = x.view(),
                           .xq = quantised ? xq.view() : Quantised{},
                           .expert = expert.in(),
                           .top_k = c.top_k,
                           .experts = c.experts,
                           .rows = rows.view(),
                           .rows_q = quantised ? rows_q.view() : Quantised{},
                           .row_of = row_of.out(),
                           .expert_end = ends.out()},
                          *gpu_stream()));
    row_of.down();
    ends.down();
    rows.down();
    rows_q.down();
    i32 next = 0;
    for (i32 e = 0; e < c.experts; ++e) {
      for (std::size_t i = 0; i < n; ++i) {
        if (experts[i] != e) continue;
        ASSERT_EQ(row_of.host[i], next) << "pair " << i;
        ++next;
      }
      ASSERT_EQ(ends.host[static_cast<std::size_t>(e)], next);
    }
    for (std::size_t i = 0; i < n; ++i) {
      if (experts[i] < 0) {
        ASSERT_EQ(row_of.host[i], -1);
        continue;
      }
      const i64 t = static_cast<i64>(i) / c.top_k, r = row_of.host[i];
      for (i64 j = 0; j < c.n; ++j) ASSERT_EQ(rows.bits(r, j), x.bits(t, j));
      for (i64 j = 0; quantised && j < c.n; ++j) {
        ASSERT_EQ(rows_q.code(r, j), xq.code(t, j));
        ASSERT_EQ(rows_q.scale_of(r, j / 128), xq.scale_of(t, j / 128));
      }
    }
    for (i64 r = next; r < pairs; ++r) ASSERT_EQ(rows.bits(r, 0), kNan) << "a row that no pair has";

    std::vector<float> weights;
    for (std::size_t i = 0; i < n; ++i) weights.push_back(normal());
    const Both<float> weight(weights);
    for (const bool accumulate : {false, true}) {
      if (accumulate) out.randomise();
      const std::vector<u16> before = out.mem.host;
      EXPECT_OK(moe_combine({.rows = rows.view(),
                             .row_of = row_of.in(),
                             .weight = weight.in(),
                             .top_k = c.top_k,
                             .accumulate = accumulate,
                             .out = out.view()},
                            *gpu_stream()));
      out.down().expect_padding_untouched();
      for (i64 t = 0; t < c.tokens; ++t)
        for (i64 j = 0; j < c.n; ++j) {
          double want = accumulate
                            ? static_cast<double>(value(before[static_cast<std::size_t>(t * out.stride + j)]))
                            : 0;
          double size = std::fabs(want);
          for (i64 i = t * c.top_k; i < (t + 1) * c.top_k; ++i) {
            const i32 r = row_of.host[static_cast<std::size_t>(i)];
            if (r < 0) continue;
            const double term = static_cast<double>(weights[static_cast<std::size_t>(i)]) *
                                static_cast<double>(rows.at(r, j));
            want += term;
            size += std::fabs(term);
          }
          expect_close(static_cast<double>(out.at(t, j)), want, std::fabs(want) * 0x1.1p-8 + size * 1e-6, t,
                       j);
        }
    }
  }
}

class NoStream final : public Stream {
  Status synchronize() override { return {}; }
};

TEST(CudaMoe, RefusesByName) {
  NoStream stream;
  float f[16] = {};
  i32 ids[16] = {};
  const ConstView logits(f, DType::kF32, {1, 8});
  const auto expect = [](const Status& s, const char* part) {
    ASSERT_FALSE(s);
    EXPECT_NE(s.error().message.find(part), std::string::npos) << s.error().message;
  };
  MoeGateArgs gate{
      .logits = logits, .bias = {}, .top_k = 2, .place = {}, .expert = {ids, 2}, .weight = {f, 2}};
  gate.groups = 3;
  expect(moe_gate(gate, stream), "groups over 8 experts");
  gate.groups = 1;
  gate.top_k = 9;
  expect(moe_gate(gate, stream), "9 experts to choose");
  gate.top_k = 3;
  expect(moe_gate(gate, stream), "2 entries, not 3");
  MoePermuteArgs permute;
  permute.expert = {ids, 2};
  permute.top_k = 33;
  expect(moe_permute(permute, stream), "33 choices");
}

}  // namespace
}  // namespace trireme::cuda
