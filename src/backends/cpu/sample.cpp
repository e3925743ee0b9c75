// Choosing the next token. One pass over the vocabulary for what every row needs; only the tokens that top-k,
// top-p and min-p could keep are ever sorted.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/cpu/common_ops.h"
#include "backends/cpu/cpu_device.h"
#include "base/rng.h"

namespace trireme::cpu {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();
constexpr int kMaxTop = 1024;  // bounds SampledToken::top

struct Candidate {
  float x = 0;  // logit before the temperature
  i32 id = 0;
  float p = 0;  // relative to the best token's
};

bool better(const Candidate& a, const Candidate& b) { return a.x != b.x ? a.x > b.x : a.id < b.id; }

bool off(const SampleRow& r) {
  return r.repetition_penalty == 1 && r.presence_penalty == 0 && r.frequency_penalty == 0;
}

// Logits with bias, bans and penalties, in `out`.
void adjust(const SampleRow& r, float* out, i64 vocab, std::vector<i32>& counts) {
  for (const auto& [id, bias] : r.logit_bias) out[id] += bias;
  for (const i32 id : r.banned) out[id] = kBanned;
  if (off(r)) return;
  counts.resize(static_cast<std::size_t>(vocab), 0);  // all zero between calls
  constexpr i32 kInPrompt = 1 << 30;
  for (const i32 id : r.prompt) counts[id] = kInPrompt;
  for (const i32 id : r.output) ++counts[id];
  for (const In<i32> tokens : {r.output, r.prompt}) {
    for (const i32 id : tokens) {
      if (counts[id] == 0) continue;  // done before
      const i32 made = counts[id] & (kInPrompt - 1);
      float& x = out[id];
      x = x > 0 ? x / r.repetition_penalty : x * r.repetition_penalty;
      x -= r.frequency_penalty * static_cast<float>(made) + (made > 0 ? r.presence_penalty : 0.0f);
      counts[id] = 0;
    }
  }
}

i32 first_at_least(const float* x, i64 n, float value) {
  for (i64 i = 0; i < n; ++i)
    if (x[i] >= value) return static_cast<i32>(i);
  return 0;
}

// Tokens sorted coarsely by how far they are below the best: in buckets of an eighth of a nat.
struct Histogram {
  static constexpr int kBuckets = 1024;
  float best, scale;  // scale: buckets a logit
  std::vector<double> mass = std::vector<double>(kBuckets, 0.0);
  std::vector<i32> count = std::vector<i32>(kBuckets, 0);

  int bucket(float x) const {
    const float b = (best - x) * scale;
    return b < kBuckets - 1 ? static_cast<int>(b) : kBuckets - 1;
  }
  // The first bucket with which the sum over `of` reaches `wanted`.
  template <class T>
  static int reaches(const std::vector<T>& of, double wanted) {
    double sum = 0;
    int b = 0;
    while (b < kBuckets - 1 && (sum += static_cast<double>(of[b])) < wanted) ++b;
    return b;
  }
};

// The worst of the smallest set of the best candidates whose probabilities reach `wanted`. REQUIRES: c is not
// empty.
Candidate last_within(std::vector<Candidate> c, double wanted) {
  std::sort(c.begin(), c.end(), better);
  double sum = 0;
  std::size_t n = 0;
  while (n < c.size() && (sum < wanted || n == 0)) sum += static_cast<double>(c[n++].p);
  return c[n - 1];
}

void drop_worse_than(const Candidate& worst, std::vector<Candidate>& c) {
  std::erase_if(c, [&](const Candidate& t) { return better(worst, t); });
}

double mass_of(const std::vector<Candidate>& c) {
  double sum = 0;
  for (const auto& t : c) sum += static_cast<double>(t.p);
  return sum;
}

// The tokens that top-k, then top-p, then min-p leave, in `c` by id; weights[i] is token i's probability
// relative to the best.
void keep(const SampleRow& r, const float* x, const float* weights, i64 vocab, float best, double total,
          std::vector<Candidate>& c) {
  const bool limited = r.top_k > 0 && r.top_k < vocab;
  Histogram h{best, 8.0f / r.temperature};
  for (i64 i = 0; i < vocab; ++i) {
    if (weights[i] <= 0) continue;
    const int b = h.bucket(x[i]);
    h.mass[b] += static_cast<double>(weights[i]);
    ++h.count[b];
  }
  int last = Histogram::kBuckets - 1;
  if (limited) last = std::min(last, Histogram::reaches(h.count, r.top_k));
  if (!limited && r.top_p < 1)
    last = std::min(last, Histogram::reaches(h.mass, static_cast<double>(r.top_p) * total));
  c.clear();
  for (i64 i = 0; i < vocab; ++i)
    if (weights[i] > 0 && h.bucket(x[i]) <= last) c.push_back({x[i], static_cast<i32>(i), weights[i]});
  if (limited && r.top_k < static_cast<i64>(c.size())) {
    std::vector<Candidate> order = c;
    std::nth_element(order.begin(), order.begin() + r.top_k - 1, order.end(), better);
    drop_worse_than(order[static_cast<std::size_t>(r.top_k) - 1], c);
  }
  if (r.top_p < 1 && !c.empty()) {
    if (limited) {
      drop_worse_than(last_within(c, static_cast<double>(r.top_p) * mass_of(c)), c);
    } else {  // all better buckets stay, so that only the one where the mass is reached has to be sorted
      std::vector<Candidate> edge;
      double inside = 0;
      for (const auto& t : c) {
        if (h.bucket(t.x) == last)
          edge.push_back(t);
        else
          inside += static_cast<double>(t.p);
      }
      // Rounding can put the mass past the last token: then all stay.
      if (!edge.empty())
        drop_worse_than(last_within(std::move(edge), static_cast<double>(r.top_p) * total - inside), c);
    }
  }
  if (r.min_p > 0) std::erase_if(c, [&](const Candidate& t) { return t.p < r.min_p; });
}

// The first token at which the sum of weights passes u of the whole.
template <class Weight>
i64 invert(i64 n, double u, double total, Weight weight) {
  double sum = 0;
  i64 last = 0;
  for (i64 i = 0; i < n; ++i) {
    const double w = static_cast<double>(weight(i));
    if (w <= 0) continue;
    sum += w;
    last = i;
    if (sum > u * total) break;
  }
  return last;
}

// Draws from x, which has passed everything up to the temperature. `best` is its maximum.
i32 draw(const SampleRow& r, const float* x, i64 vocab, float best, const Kernels& kernels, float* weights,
         std::vector<Candidate>& c) {
  const float inverse = 1.0f / r.temperature;
  const double u = keyed_uniform(r.seed, r.position);
  const double total = kernels.exps(x, vocab, inverse, best * inverse, weights);
  if ((r.top_k <= 0 || r.top_k >= vocab) && r.top_p >= 1 && r.min_p <= 0) {
    return static_cast<i32>(invert(vocab, u, total, [weights](i64 i) { return weights[i]; }));
  }
  keep(r, x, weights, vocab, best, total, c);
  if (c.empty()) return first_at_least(x, vocab, best);
  return c[invert(static_cast<i64>(c.size()), u, mass_of(c), [&c](i64 i) { return c[i].p; })].id;
}

void logprobs(const SampleRow& r, const float* raw, i64 vocab, float best, const Kernels& kernels,
              SampledToken& out) {
  const double log_sum = std::log(kernels.exps(raw, vocab, 1.0f, best, nullptr)) + static_cast<double>(best);
  const auto logprob = [&](i32 id) { return static_cast<float>(static_cast<double>(raw[id]) - log_sum); };
  out.logprob = logprob(out.id);
  const i64 n = std::min<i64>({r.logprobs, vocab, kMaxTop});
  if (n <= 0) return;
  const auto before = [raw](i32 a, i32 b) { return raw[a] != raw[b] ? raw[a] > raw[b] : a < b; };
  std::vector<i32> heap;  // the n best so far, the worst of them in front
  for (i32 id = 0; id < vocab; ++id) {
    if (static_cast<i64>(heap.size()) < n) {
      heap.push_back(id);
      std::push_heap(heap.begin(), heap.end(), before);
    } else if (raw[id] > raw[heap.front()]) {
      std::pop_heap(heap.begin(), heap.end(), before);
      heap.back() = id;
      std::push_heap(heap.begin(), heap.end(), before);
    }
  }
  std::sort(heap.begin(), heap.end(), before);
  for (const i32 id : heap) out.top.emplace_back(id, logprob(id));
}

struct Workspace {
  std::vector<i32> counts;
  std::vector<Candidate> candidates;
};

Status sample_row(const SampleRow& r, i64 index, const float* raw, i64 vocab, const Kernels& kernels,
                  Scratch& scratch, Workspace& w, SampledToken& out) {
  const float raw_best = kernels.max(raw, vocab);
  if (!std::isfinite(raw_best)) {
    return invalid("row {}: the logits hold {}; the model's weights or its input are broken", index,
                   std::isnan(raw_best) ? "NaN"
                   : raw_best > 0       ? "infinity"
                                        : "nothing but -infinity");
  }
  const float* x = raw;
  float best = raw_best;
  if (!r.logit_bias.empty() || !r.banned.empty() || !off(r)) {
    float* const adjusted = scratch.take<float>(0, vocab);
    std::copy(raw, raw + vocab, adjusted);
    adjust(r, adjusted, vocab, w.counts);
    x = adjusted;
    best = kernels.max(x, vocab);
    if (!std::isfinite(best)) return invalid("row {}: every token is banned", index);
  }
  out = {};
  if (r.temperature <= 0 || r.top_k == 1) {
    out.id = first_at_least(x, vocab, best);
  } else {
    out.id = draw(r, x, vocab, best, kernels, scratch.take<float>(1, vocab), w.candidates);
  }
  if (r.logprobs >= 0) logprobs(r, raw, vocab, raw_best, kernels, out);
  return {};
}

Status check_row(const SampleRow& r, i64 index, i64 vocab) {
  const auto known = [vocab](i32 id) { return id >= 0 && id < vocab; };
  bool fine =
      std::all_of(r.banned.begin(), r.banned.end(), known) &&
      std::all_of(r.logit_bias.begin(), r.logit_bias.end(), [&](const auto& b) { return known(b.first); });
  if (!off(r)) {
    fine = fine && std::all_of(r.prompt.begin(), r.prompt.end(), known) &&
           std::all_of(r.output.begin(), r.output.end(), known);
  }
  if (!fine) return invalid("row {}: a token id is outside [0, {})", index, vocab);
  if (!(r.temperature >= 0) || !(r.top_p > 0) || !(r.repetition_penalty > 0)) {
    return invalid("row {}: temperature {}, top_p {}, repetition_penalty {}", index, r.temperature, r.top_p,
                   r.repetition_penalty);
  }
  return {};
}

}  // namespace

Status sample(const SampleArgs& a, Stream& stream) {
  const i64 rows = static_cast<i64>(a.rows.size()), vocab = a.logits.shape.cols();
  if (a.logits.dtype != DType::kF32 || a.logits.shape.rows() != rows ||
      static_cast<i64>(a.out.size()) != rows) {
    return invalid("sample: {} rows from logits of {} {}", rows, to_string(a.logits.dtype),
                   to_string(a.logits.shape));
  }
  for (i64 i = 0; i < rows; ++i) TRY(check_row(a.rows[static_cast<std::size_t>(i)], i, vocab));
  CpuStream& s = cpu(stream);
  std::vector<Status> status(static_cast<std::size_t>(rows));
  const i64 grain = std::max<i64>(1, (32 << 10) / std::max<i64>(1, vocab));
  s.pool.parallel_for(rows, grain, [&](i64 begin, i64 end, int worker) {
    Workspace w;
    for (i64 i = begin; i < end; ++i) {
      const auto at = static_cast<std::size_t>(i);
      status[at] = sample_row(a.rows[at], i, static_cast<const float*>(a.logits.row(i)), vocab, s.kernels,
                              s.worker[static_cast<std::size_t>(worker)], w, a.out[at]);
    }
  });
  for (auto& one : status) TRY(std::move(one));
  return {};
}

}  // namespace trireme::cpu
