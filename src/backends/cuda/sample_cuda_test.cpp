// The GPU's sampler against the rules written out in double precision.
#include "backends/cuda/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/smxx/sample.h"
#include "backends/cuda/smxx/sample_cluster.h"
#include "base/rng.h"

namespace trireme::cuda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(),
                kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> adjusted(const SampleRow& r, std::vector<float> x) {
  for (const auto& [id, bias] : r.logit_bias) x[static_cast<std::size_t>(id)] += bias;
  for (const i32 id : r.banned) x[static_cast<std::size_t>(id)] = -kInfinity;
  std::set<i32> seen(r.prompt.begin(), r.prompt.end());
  seen.insert(r.output.begin(), r.output.end());
  for (const i32 id : seen) {
    const auto made = static_cast<float>(std::count(r.output.begin(), r.output.end(), id));
    float& v = x[static_cast<std::size_t>(id)];
    v = v > 0 ? v / r.repetition_penalty : v * r.repetition_penalty;
    v -= r.frequency_penalty * made + (made > 0 ? r.presence_penalty : 0.0f);
  }
  return x;
}

// Whether the rules could give `id`: its share of the distribution that the parameters leave holds the row's
// uniform number, up to rounding. A cut of top-p that lies within rounding may be made on either side.
bool allowed(const SampleRow& r, const std::vector<float>& raw, i32 id) {
  const std::vector<float> x = adjusted(r, raw);
  const auto n = static_cast<i64>(x.size());
  std::vector<i32> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&x](i32 i) { return x[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](i32 a, i32 b) { return value(a) > value(b); });
  if (r.temperature <= 0 || r.top_k == 1) return id == order[0];
  const double best = static_cast<double>(value(order[0]));
  const auto weight = [&](i32 i) {
    return std::exp((static_cast<double>(value(i)) - best) / static_cast<double>(r.temperature));
  };
  const i64 limit = r.top_k > 0 ? std::min<i64>(r.top_k, n) : n;
  double limited = 0, sum = 0;
  for (i64 i = 0; i < limit; ++i) limited += weight(order[static_cast<std::size_t>(i)]);
  const double wanted = r.top_p < 1 ? static_cast<double>(r.top_p) * limited : 2 * limited;
  i64 fewest = 0, most = 0;
  while (most < limit && (most == 0 || sum < wanted * (1 + 2e-6))) {
    sum += weight(order[static_cast<std::size_t>(most++)]);
    if (sum < wanted * (1 - 2e-6)) fewest = most;
  }
  const double u = keyed_uniform(r.seed, r.position);
  for (i64 kept = std::max<i64>(1, std::min(fewest + 1, most)); kept <= most; ++kept) {
    std::vector<i32> in(order.begin(), order.begin() + kept);
    std::erase_if(in, [&](i32 i) { return weight(i) < static_cast<double>(r.min_p) * (1 - 1e-6); });
    std::sort(in.begin(), in.end());
    double total = 0, before = 0, mine = 0;
    for (const i32 i : in) {
      if (i < id) before += weight(i);
      if (i == id) mine = weight(i);
      total += weight(i);
    }
    if (mine > 0 && u > before / total - 2e-6 && u < (before + mine) / total + 2e-6) return true;
  }
  return false;
}

class SampleOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = CudaDevice::open();
    if (!opened) GTEST_SKIP() << opened.error().message;
    device = std::move(*opened);
    stream = device->make_stream();
    const char* const given = std::getenv("TRIREME_TEST_SEED");
    const u64 seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    fmt::print("TRIREME_TEST_SEED={}\n", seed);
    rng = Rng(seed);
  }
  // Rows `stride` apart, with NaN between them; `skew` floats past the buffer's beginning.
  std::vector<SampledToken> run(const std::vector<std::vector<float>>& logits,
                                std::span<const SampleRow> rows, i64 pad = 0, i64 skew = 0) {
    const i64 n = static_cast<i64>(logits.size()), vocab = static_cast<i64>(logits[0].size());
    std::vector<float> all(static_cast<std::size_t>(skew + n * (vocab + pad)), kNaN);
    for (i64 i = 0; i < n; ++i)
      std::copy(logits[static_cast<std::size_t>(i)].begin(), logits[static_cast<std::size_t>(i)].end(),
                all.begin() + skew + i * (vocab + pad));
    const i64 bytes = static_cast<i64>(all.size()) * 4;
    Buffer buffer = device->allocate(bytes).value();
    EXPECT_TRUE(device->copy_in(buffer.data(), all.data(), bytes, *stream));
    std::vector<SampledToken> out(logits.size());
    const ConstView view(static_cast<float*>(buffer.data()) + skew, DType::kF32, {n, vocab}, vocab + pad);
    status = sample({view, rows, out}, *stream);
    return out;
  }
  std::vector<float> random_logits(i64 vocab, double scale, double step = 0) {
    std::vector<float> x;
    for (i64 i = 0; i < vocab; ++i) {
      const double v = rng.normal() * scale;
      x.push_back(static_cast<float>(step > 0 ? std::round(v / step) * step : v));
    }
    return x;
  }
  void expect_ok() { EXPECT_TRUE(status) << (status ? "" : status.error().message); }

  std::unique_ptr<CudaDevice> device;
  std::unique_ptr<Stream> stream;
  Rng rng{0};
  Status status;
};

const i64 kVocabs[] = {1, 2, 3, 8, 100, 1023, 4097, 32000, 44032, 44033, 129280, 151936, 262144};

TEST_F(SampleOnGpu, GreedyTakesTheLowestIdOfTheMaximum) {
  for (const i64 vocab : kVocabs) {
    for (const i64 rows : {1, 3, 65}) {
      if (rows > 3 && vocab > 44033) continue;
      std::vector<std::vector<float>> x;
      std::vector<i32> expected;
      for (i64 r = 0; r < rows; ++r) {
        x.push_back(random_logits(vocab, 3, r % 2 == 0 ? 0 : 0.5));
        expected.push_back(
            static_cast<i32>(std::max_element(x.back().begin(), x.back().end()) - x.back().begin()));
      }
      const std::vector<SampleRow> greedy(static_cast<std::size_t>(rows));
      std::vector<SampleRow> mixed = greedy;  // one that draws takes all through the other kernel
      mixed[0].temperature = 1;
      for (const i64 skew : {0, 1, 3}) {
        const auto a = run(x, greedy, skew, skew);
        expect_ok();
        const auto b = run(x, mixed, skew, skew);
        expect_ok();
        for (i64 r = 0; r < rows; ++r) {
          const auto i = static_cast<std::size_t>(r);
          EXPECT_EQ(a[i].id, expected[i]) << "row " << r << " of " << rows << ", vocabulary " << vocab;
          if (r > 0) {
            EXPECT_EQ(b[i].id, expected[i]) << "row " << r << ", vocabulary " << vocab;
          }
        }
      }
    }
  }
}

struct Choice {
  const char* what;
  float temperature, top_p, min_p;
  int top_k;
};
constexpr Choice kChoices[] = {{"all", 1, 1, 0, -1},
                               {"hot", 3, 1, 0, 0},
                               {"cold", 0.05f, 1, 0, -1},
                               {"top_p", 0.7f, 0.95f, 0, -1},
                               {"hot top_p", 2, 0.6f, 0, -1},
                               {"high top_p", 1, 0.9999f, 0, -1},
                               {"tiny top_p", 1, 1e-6f, 0, -1},
                               {"top_k", 1, 1, 0, 50},
                               {"cold top_k", 0.1f, 1, 0, 1000},
                               {"large top_k", 1, 1, 0, 30000},
                               {"top_k beyond", 1, 1, 0, 1 << 20},
                               {"top_k and top_p", 0.8f, 0.9f, 0, 40},
                               {"large top_k and top_p", 1.5f, 0.9f, 0, 5000},
                               {"min_p", 1, 1, 0.1f, -1},
                               {"impossible min_p", 1, 1, 1.5f, -1},
                               {"all three", 1, 0.9f, 0.02f, 100}};

TEST_F(SampleOnGpu, DrawsAreThoseOfTheRules) {
  for (const i64 vocab : kVocabs) {
    const struct {
      const char* what;
      double scale, step;
    } kinds[] = {{"flat", 1, 0}, {"peaked", 4, 0}, {"ties", 2, 0.25}, {"equal", 0, 1}};
    for (const auto& kind : kinds) {
      std::vector<std::vector<float>> x;
      std::vector<SampleRow> rows;
      for (const Choice& c : kChoices) {
        x.push_back(random_logits(vocab, kind.scale, kind.step));
        SampleRow r;
        r.temperature = c.temperature;
        r.top_p = c.top_p;
        r.min_p = c.min_p;
        r.top_k = c.top_k;
        r.seed = rng.next();
        r.position = rng.below(1000);
        rows.push_back(r);
      }
      const auto out = run(x, rows);
      expect_ok();
      for (std::size_t i = 0; i < rows.size(); ++i) {
        SampleRow rule = rows[i];
        if (rule.min_p > 1) rule.temperature = 0;  // nothing reaches it: the best token
        EXPECT_TRUE(allowed(rule, x[i], out[i].id))
            << kChoices[i].what << ", " << kind.what << ", vocabulary " << vocab << ": " << out[i].id;
        if (i % 4 == 0) {
          EXPECT_EQ(run({x[i]}, {&rows[i], 1}, 1, 1)[0].id, out[i].id) << "alone";
        }
      }
    }
  }
}

TEST_F(SampleOnGpu, DrawsFollowTheDistribution) {
  constexpr int kDraws = 2000;
  const std::vector<float> x = {2, 1, 0, 3, 1, -1, 2.5f, 0.5f};
  std::vector<SampleRow> rows;
  for (u64 i = 0; i < kDraws; ++i) {
    rows.emplace_back();
    rows.back().temperature = 1;
    rows.back().position = i;
  }
  double total = 0, chi = 0;
  for (const float v : x) total += std::exp(static_cast<double>(v));
  std::vector<double> count(x.size(), 0.0);
  for (const auto& t : run(std::vector<std::vector<float>>(kDraws, x), rows))
    ++count[static_cast<std::size_t>(t.id)];
  expect_ok();
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = kDraws * std::exp(static_cast<double>(x[i])) / total;
    chi += (count[i] - expected) * (count[i] - expected) / expected;
  }
  EXPECT_LT(chi, 30);  // 7 degrees of freedom: above 30 once in 10,000; the draws are always the same
}

TEST_F(SampleOnGpu, BiasBansAndPenaltiesComeFirst) {
  for (const i64 vocab : {i64{50}, i64{5000}, i64{129280}}) {
    constexpr std::size_t kRows = 24;
    std::vector<std::vector<float>> x;
    std::vector<std::vector<i32>> prompts(kRows), outputs(kRows), bans(kRows);
    std::vector<std::vector<std::pair<i32, float>>> biases(kRows);
    std::vector<SampleRow> rows(kRows);
    const auto some = [&](std::size_t n) {
      std::vector<i32> ids;
      for (std::size_t i = 0; i < n; ++i)
        ids.push_back(static_cast<i32>(rng.below(std::min<u64>(static_cast<u64>(vocab), 300))));
      return ids;
    };
    for (std::size_t i = 0; i < kRows; ++i) {
      x.push_back(random_logits(vocab, 1));
      for (std::size_t j = 0; j < std::min<std::size_t>(x[i].size(), 300); ++j) x[i][j] += 8;
      SampleRow& r = rows[i];
      r.temperature = i % 3 == 0 ? 0.0f : 0.8f;
      r.top_p = i % 4 == 1 ? 0.9f : 1.0f;
      r.top_k = i % 5 == 2 ? 30 : -1;
      r.position = i;
      prompts[i] = some(40);
      outputs[i] = some(60);
      r.prompt = prompts[i];
      r.output = outputs[i];
      if (i % 2 == 0) r.repetition_penalty = 1.3f;
      if (i % 3 != 1) r.presence_penalty = 0.6f;
      if (i % 5 != 3) r.frequency_penalty = 0.4f;
      if (i % 4 < 2) {
        bans[i] = some(10);
        r.banned = bans[i];
        for (const i32 id : some(8)) biases[i].emplace_back(id, static_cast<float>(rng.normal()));
        r.logit_bias = biases[i];
      }
      if (r.repetition_penalty == 1 && r.presence_penalty == 0 && r.frequency_penalty == 0)
        r.prompt = r.output = {};
    }
    const auto out = run(x, rows);
    expect_ok();
    for (std::size_t i = 0; i < kRows; ++i)
      EXPECT_TRUE(allowed(rows[i], x[i], out[i].id)) << "row " << i << ", vocabulary " << vocab;
  }
}

TEST_F(SampleOnGpu, LogprobsAreOfTheRawDistributionBestFirst) {
  for (const i64 vocab : {i64{1}, i64{7}, i64{1500}, i64{129280}}) {
    for (const double step : {0.0, 0.5}) {
      std::vector<std::vector<float>> x;
      std::vector<SampleRow> rows(6);
      const int asked[] = {-1, 0, 5, 20, 1024, 5000};
      const std::vector<std::pair<i32, float>> push = {
          {0, 1000.0f}};  // above any of 129,280 normals of spread 15
      for (std::size_t i = 0; i < rows.size(); ++i) {
        x.push_back(random_logits(vocab, i % 2 == 0 ? 1 : 15, step));  // also beyond 32 nats
        rows[i].logprobs = asked[i];
        rows[i].logit_bias = push;
      }
      const auto out = run(x, rows);
      expect_ok();
      for (std::size_t i = 0; i < rows.size(); ++i) {
        EXPECT_EQ(out[i].id, 0);
        std::vector<i32> order(x[i].size());
        std::iota(order.begin(), order.end(), 0);
        const auto value = [&](i32 id) { return static_cast<double>(x[i][static_cast<std::size_t>(id)]); };
        std::stable_sort(order.begin(), order.end(), [&](i32 a, i32 b) { return value(a) > value(b); });
        double sum = 0;
        for (const i32 id : order) sum += std::exp(value(id) - value(order[0]));
        const double log_sum = std::log(sum) + value(order[0]);
        const i64 n = std::min<i64>({std::max(0, asked[i]), vocab, 1024});
        ASSERT_EQ(static_cast<i64>(out[i].top.size()), n);
        if (asked[i] < 0) continue;
        EXPECT_NEAR(static_cast<double>(out[i].logprob), value(0) - log_sum, 1e-5);
        for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) {
          ASSERT_EQ(out[i].top[j].first, order[j]) << j << " of " << n << ", vocabulary " << vocab;
          ASSERT_NEAR(static_cast<double>(out[i].top[j].second), value(order[j]) - log_sum, 1e-5);
        }
      }
    }
  }
}

TEST_F(SampleOnGpu, BrokenRowsAreNamed) {
  for (const i64 vocab : {i64{100}, i64{129280}}) {
    for (const float temperature : {0.0f, 1.0f}) {
      for (const auto& [bad, word] :
           {std::pair<float, const char*>{kNaN, "NaN"}, {-kNaN, "NaN"}, {kInfinity, "infinity"}}) {
        std::vector<std::vector<float>> x(3, random_logits(vocab, 1));
        x[2][static_cast<std::size_t>(vocab) - 43] = bad;
        std::vector<SampleRow> rows(3);
        for (auto& r : rows) r.temperature = temperature;
        run(x, rows);
        ASSERT_FALSE(status);
        EXPECT_NE(status.error().message.find("row 2"), std::string::npos) << status.error().message;
        EXPECT_NE(status.error().message.find(word), std::string::npos) << status.error().message;
      }
      std::vector<SampleRow> row(1);
      row[0].temperature = temperature;
      run({std::vector<float>(static_cast<std::size_t>(vocab), -kInfinity)}, row);
      ASSERT_FALSE(status);
      EXPECT_NE(status.error().message.find("nothing but"), std::string::npos) << status.error().message;
      std::vector<float> one(static_cast<std::size_t>(vocab), -kInfinity);
      one[7] = -3;
      EXPECT_EQ(run({one}, row)[0].id, 7);
      expect_ok();
      const std::vector<i32> seven = {7}, beyond = {static_cast<i32>(vocab)};
      row[0].banned = seven;
      run({one}, row);
      ASSERT_FALSE(status);
      EXPECT_NE(status.error().message.find("banned"), std::string::npos) << status.error().message;
      row[0].banned = beyond;
      run({one}, row);
      EXPECT_FALSE(status);
    }
  }
}

TEST_F(SampleOnGpu, ARecordedDrawReadsItsParametersFromTheDevice) {
  constexpr i64 kVocab = 32000;
  const std::vector<float> x = random_logits(kVocab, 1);
  Buffer logits = device->allocate(kVocab * 4).value(), params = device->allocate(64).value(),
         out = device->allocate(8).value();
  ASSERT_TRUE(device->copy_in(logits.data(), x.data(), kVocab * 4, *stream));
  DrawArgs a;
  a.logits = static_cast<const float*>(logits.data());
  a.row_stride = kVocab;
  a.rows = 1;
  a.vocab = kVocab;
  a.params = static_cast<const SampleRowParams*>(params.data());
  a.ids = static_cast<i32*>(out.data());
  a.status = a.ids + 1;
  auto graph = device->capture(
      *stream, [&]() -> Status { return status_of(sample_draw(a, handle_of(*stream)), "sample_draw"); });
  ASSERT_TRUE(graph) << graph.error().message;
  for (u64 position = 0; position < 20; ++position) {
    SampleRow r;
    r.temperature = 0.7f;
    r.top_p = 0.9f;
    r.position = position;
    SampleRowParams p = {};
    p.uniform = keyed_uniform(r.seed, position);
    p.inverse_temperature = 1 / 0.7f;
    p.top_p = 0.9f;
    ASSERT_TRUE(device->copy_in(params.data(), &p, sizeof p, *stream));
    ASSERT_TRUE((*graph)->launch(*stream));
    i32 got[2];
    ASSERT_TRUE(device->copy_out(got, out.data(), 8, *stream));
    ASSERT_TRUE(stream->synchronize());
    EXPECT_EQ(got[1], kSampled);
    EXPECT_TRUE(allowed(r, x, got[0]));
  }
}

TEST(SampleCluster, HoldsEveryVocabularyThatIsAllowed) {
  EXPECT_EQ(sample_blocks(1), 1);
  EXPECT_EQ(sample_blocks(44032), 1);
  EXPECT_EQ(sample_blocks(44033), 2);
  EXPECT_EQ(sample_blocks(129280), 4);
  EXPECT_EQ(sample_blocks(262144), 8);
  EXPECT_EQ(sample_blocks(kMaxSampleVocab), kMaxSampleBlocks);
  EXPECT_EQ(sample_blocks(kMaxSampleVocab + 1), 0);
}

}  // namespace
}  // namespace trireme::cuda
