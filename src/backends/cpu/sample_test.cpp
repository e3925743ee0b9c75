#include <algorithm>
#include <map>

#include "backends/cpu/test_util.h"

namespace trireme::cpu {
namespace {

class Sample : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(EveryIsa, Sample, testing::ValuesIn(isas()), isa_name);

struct Sampler {
  Runner runner;
  Tensor logits;
  Sampler(Isa isa, const std::vector<float>& x)
      : runner(Runner::fast(isa)), logits(DType::kF32, {1, static_cast<i64>(x.size())}) {
    for (std::size_t i = 0; i < x.size(); ++i) logits.set(static_cast<i64>(i), x[i]);
  }
  SampledToken one(const SampleRow& row) {
    SampledToken out;
    EXPECT_OK(runner.ops().sample({logits.view(), {&row, 1}, {&out, 1}}, *runner.stream));
    return out;
  }
  // How often each token was drawn in n positions.
  std::map<i32, int> counts(SampleRow row, int n) {
    const i64 vocab = logits.shape[1];
    Tensor many(DType::kF32, {n, vocab});
    std::vector<SampleRow> rows;
    for (int i = 0; i < n; ++i) {
      std::memcpy(many.f32() + i * vocab, logits.f32(), static_cast<std::size_t>(vocab) * 4);
      row.position = static_cast<u64>(i);
      rows.push_back(row);
    }
    std::vector<SampledToken> out(static_cast<std::size_t>(n));
    EXPECT_OK(runner.ops().sample({many.view(), rows, out}, *runner.stream));
    std::map<i32, int> c;
    for (const auto& t : out) ++c[t.id];
    return c;
  }
};

// Pearson's statistic of counts against probabilities; infinite if something of probability zero was drawn.
double chi_square(const std::map<i32, int>& counts, const std::map<i32, double>& p, int n) {
  double sum = 0;
  for (const auto& [id, c] : counts)
    if (!p.contains(id)) return std::numeric_limits<double>::infinity();
  for (const auto& [id, q] : p) {
    const double expected = q * n, got = counts.contains(id) ? counts.at(id) : 0;
    sum += (got - expected) * (got - expected) / expected;
  }
  return sum;
}

constexpr int kDraws = 20000;
const std::vector<float> kLogits = {2, 1, 0, 3, 1, -1, 2.5f, 0.5f};

std::map<i32, double> distribution(const std::vector<i32>& kept, double temperature) {
  std::map<i32, double> p;
  double sum = 0;
  for (const i32 id : kept)
    sum += p[id] = std::exp(static_cast<double>(kLogits[static_cast<std::size_t>(id)]) / temperature);
  for (auto& [id, q] : p) q /= sum;
  return p;
}

TEST_P(Sample, DrawsFollowTheDistributionThatTheParametersLeave) {
  Sampler s(GetParam(), kLogits);
  struct Case {
    const char* what;
    float temperature, top_p, min_p;
    int top_k;
    std::vector<i32> kept;
  };
  // By probability at temperature 1: 3 (.39), 6 (.24), 0 (.14), 1 and 4 (.05 each), 7, 2, 5.
  const Case cases[] = {{"all", 1, 1, 0, -1, {0, 1, 2, 3, 4, 5, 6, 7}},
                        {"hot", 2, 1, 0, 0, {0, 1, 2, 3, 4, 5, 6, 7}},
                        {"top_k 3", 1, 1, 0, 3, {3, 6, 0}},
                        {"top_k 4, a tie at the edge", 1, 1, 0, 4, {3, 6, 0, 1}},
                        {"top_p 0.6", 1, 0.6f, 0, -1, {3, 6}},
                        {"top_p 0.7", 1, 0.7f, 0, -1, {3, 6, 0}},
                        {"top_p so small that one stays", 1, 1e-6f, 0, -1, {3}},
                        {"min_p 0.3", 1, 1, 0.3f, -1, {3, 6, 0}},
                        {"top_k 3, then top_p 0.6 of those", 1, 0.6f, 0, 3, {3, 6}},
                        {"top_k 5, top_p 0.99, min_p 0.5", 1, 0.99f, 0.5f, 5, {3, 6}},
                        {"cold", 0.25f, 1, 0.01f, -1, {3, 6, 0}}};
  for (const Case& c : cases) {
    SampleRow row;
    row.temperature = c.temperature;
    row.top_p = c.top_p;
    row.min_p = c.min_p;
    row.top_k = c.top_k;
    row.seed = 7;
    const double chi =
        chi_square(s.counts(row, kDraws), distribution(c.kept, static_cast<double>(c.temperature)), kDraws);
    EXPECT_LT(chi, 30) << c.what;  // 7 degrees of freedom: above 30 once in 10,000
  }
}

TEST_P(Sample, ADrawDependsOnSeedAndPositionAlone) {
  Rng rng(fresh_seed());
  constexpr i64 kVocab = 5000;
  Runner r = Runner::fast(GetParam(), 2);
  Tensor logits = random_tensor(rng, DType::kF32, {33, kVocab}, 2);
  std::vector<SampleRow> rows(33);
  for (u64 i = 0; i < 33; ++i) {
    rows[i].temperature = 0.7f;
    rows[i].top_p = i % 3 == 0 ? 1.0f : 0.9f;
    rows[i].top_k = i % 2 == 0 ? -1 : 40;
    rows[i].seed = i;
    rows[i].position = 100 + i;
  }
  std::vector<SampledToken> all(33);
  EXPECT_OK(r.ops().sample({logits.view(), rows, all}, *r.stream));
  for (std::size_t i = 0; i < 33; ++i) {
    SampledToken alone;
    const View row(logits.f32() + i * kVocab, DType::kF32, {1, kVocab});
    EXPECT_OK(r.ops().sample({row, {&rows[i], 1}, {&alone, 1}}, *r.stream));
    EXPECT_EQ(alone.id, all[i].id);
  }
}

TEST_P(Sample, TopPOverALargeVocabularyKeepsTheSmallestSetThatReachesIt) {
  Rng rng(fresh_seed());
  constexpr int kVocab = 3000;
  std::vector<float> x;
  for (int i = 0; i < kVocab; ++i) x.push_back(static_cast<float>(rng.normal()));
  std::vector<std::pair<double, i32>> order;
  double total = 0;
  for (i32 i = 0; i < kVocab; ++i) {
    order.emplace_back(-std::exp(static_cast<double>(x[static_cast<std::size_t>(i)])), i);
    total -= order.back().first;
  }
  std::sort(order.begin(), order.end());
  std::map<i32, double> nucleus;
  double sum = 0;
  for (const auto& [p, id] : order) {
    if (sum >= 0.3 * total) break;
    sum -= p;
    nucleus[id] = -p;
  }
  Sampler s(GetParam(), x);
  SampleRow row;
  row.temperature = 1;
  row.top_p = 0.3f;
  const auto counts = s.counts(row, 4000);
  for (const auto& [id, n] : counts) EXPECT_TRUE(nucleus.contains(id)) << id << " is outside";
  EXPECT_GT(counts.size(), nucleus.size() / 2);
}

TEST_P(Sample, GreedyTakesTheLowestIdOfTheMaximum) {
  Sampler s(GetParam(), {0, 5, 1, 5, 5});
  EXPECT_EQ(s.one({}).id, 1);
  SampleRow row;
  row.temperature = 1;
  row.top_k = 1;
  EXPECT_EQ(s.one(row).id, 1);
}

TEST_P(Sample, PenaltiesBiasAndBansApplyToTheLogits) {
  Sampler s(GetParam(), {4.0f, 3.9f, -1.0f, 3.0f});
  const std::vector<i32> prompt = {0, 0}, output = {1, 1, 1};
  SampleRow row;
  row.repetition_penalty = 2;  // 0 and 1 halved
  row.prompt = prompt;
  row.output = output;
  EXPECT_EQ(s.one(row).id, 3);
  row.repetition_penalty = 1;
  row.presence_penalty = 0.5f;  // over the output only: 1 falls below, 0 stays
  EXPECT_EQ(s.one(row).id, 0);
  const std::vector<i32> zero_once = {0};
  row.output = zero_once;
  EXPECT_EQ(s.one(row).id, 1);
  row.presence_penalty = 0;
  row.frequency_penalty = 0.5f;  // 0 once: 3.5; 1 is best
  EXPECT_EQ(s.one(row).id, 1);
  const std::vector<i32> both = {1, 1, 1, 0, 0, 0, 0};
  row.output = both;
  row.frequency_penalty = 0.3f;  // 2.8, 3.0, and 3.0 untouched: the tie goes to the lower id
  const std::vector<std::pair<i32, float>> push = {{3, 0.01f}};
  row.logit_bias = push;
  EXPECT_EQ(s.one(row).id, 3);
  SampleRow banned;
  const std::vector<i32> ban = {0, 1};
  banned.banned = ban;
  EXPECT_EQ(s.one(banned).id, 3);
  SampleRow negative;  // a repeated negative logit is multiplied
  const std::vector<i32> all = {0, 1, 3};
  const std::vector<std::pair<i32, float>> lower = {{0, -5.0f}, {1, -5.0f}, {3, -3.9f}};
  negative.output = all;
  negative.logit_bias = lower;  // -1, -1.1, -1, -0.9, then doubled but for 2
  negative.repetition_penalty = 2;
  EXPECT_EQ(s.one(negative).id, 2);
}

TEST_P(Sample, LogprobsAreOfTheRawDistributionBestFirst) {
  Sampler s(GetParam(), {1, 2, 2, 0});
  const double sum = std::exp(1.0) + 2 * std::exp(2.0) + 1;
  SampleRow row;
  const std::vector<std::pair<i32, float>> push = {{3, 100.0f}};
  row.logit_bias = push;
  row.logprobs = 3;
  const SampledToken t = s.one(row);
  EXPECT_EQ(t.id, 3);
  EXPECT_NEAR(static_cast<double>(t.logprob), -std::log(sum), 1e-6);
  ASSERT_EQ(t.top.size(), 3u);
  EXPECT_EQ(t.top[0].first, 1);
  EXPECT_EQ(t.top[1].first, 2);
  EXPECT_EQ(t.top[2].first, 0);
  EXPECT_NEAR(static_cast<double>(t.top[0].second), 2 - std::log(sum), 1e-6);
  row.logprobs = 0;
  EXPECT_TRUE(s.one(row).top.empty());
  row.logprobs = 20;
  EXPECT_EQ(s.one(row).top.size(), 4u);
}

TEST_P(Sample, BrokenRowsAreNamed) {
  Rng rng(fresh_seed());
  Runner r = Runner::fast(GetParam());
  for (const float bad : {kPoison, std::numeric_limits<float>::infinity()}) {
    Tensor logits = random_tensor(rng, DType::kF32, {3, 100});
    logits.set(2 * 100 + 57, bad);
    std::vector<SampleRow> rows(3);
    std::vector<SampledToken> out(3);
    const Status s = r.ops().sample({logits.view(), rows, out}, *r.stream);
    ASSERT_FALSE(s);
    EXPECT_NE(s.error().message.find("row 2"), std::string::npos) << s.error().message;
  }
  Tensor logits = random_tensor(rng, DType::kF32, {1, 3});
  const std::vector<i32> all = {0, 1, 2}, beyond = {3};
  std::vector<SampleRow> row(1);
  std::vector<SampledToken> out(1);
  row[0].banned = all;
  EXPECT_FALSE(r.ops().sample({logits.view(), row, out}, *r.stream));
  row[0].banned = beyond;
  EXPECT_FALSE(r.ops().sample({logits.view(), row, out}, *r.stream));
}

}  // namespace
}  // namespace trireme::cpu
