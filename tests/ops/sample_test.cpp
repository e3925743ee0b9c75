// The next token: the same draw on every backend.
#include <algorithm>

#include "rig.h"

namespace trireme::ops_test {
namespace {

class Sample : public OnEveryBackend {
 protected:
  std::vector<SampledToken> sample(Rig& r, const Host& logits, const std::vector<SampleRow>& rows) {
    std::vector<SampledToken> out(rows.size());
    RUN(r, r.ops().sample({r.put(logits, DType::kF32, logits.shape[1] + 3), rows, out}, r.stream()));
    r.clear();
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(Ops, Sample, testing::ValuesIn(backends()), backend_name);

TEST_P(Sample, DrawsTheOraclesTokensWithTheirLogprobs) {
  for (const i64 vocab : {1, 8, 1000, 32003}) {
    constexpr i64 kRows = 96;
    const Host logits = random_host(rng, DType::kF32, {kRows, vocab}, 3);
    const auto some = [&](i64 n) { return below(n, std::min<i64>(vocab, 50)); };
    std::vector<std::vector<i32>> prompts, outputs, bans;
    std::vector<std::vector<std::pair<i32, float>>> biases;
    for (i64 i = 0; i < kRows; ++i) {
      prompts.push_back(some(20));
      outputs.push_back(some(30));
      bans.push_back(vocab > 1 ? below(3, std::max<i64>(1, vocab / 2)) : std::vector<i32>{});
      biases.emplace_back();
      for (const i32 id : some(5)) biases.back().emplace_back(id, static_cast<float>(rng.normal()));
    }
    std::vector<SampleRow> rows(kRows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      SampleRow& r = rows[i];
      r.temperature = i % 4 == 0 ? 0.0f : 0.3f * static_cast<float>(i % 4);
      r.top_p = i % 3 == 1 ? 0.9f : 1.0f;
      r.top_k = i % 5 == 2 ? 20 : -1;
      r.min_p = i % 7 == 3 ? 0.05f : 0.0f;
      r.seed = rng.next();
      r.position = i;
      if (i % 2 == 1) {
        r.repetition_penalty = 1.2f;
        r.presence_penalty = 0.3f;
        r.frequency_penalty = 0.2f;
        r.prompt = prompts[i];
        r.output = outputs[i];
      }
      if (i % 6 == 5) {
        r.banned = bans[i];
        r.logit_bias = biases[i];
      }
      r.logprobs = i % 4 == 2 ? static_cast<int>(i % 9) : -1;
    }
    const auto got = sample(tested, logits, rows), expected = sample(oracle, logits, rows);
    int different = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (got[i].id != expected[i].id) {
        ++different;
        EXPECT_GT(rows[i].temperature, 0) << "row " << i << ", vocabulary " << vocab;
        continue;
      }
      EXPECT_NEAR(got[i].logprob, expected[i].logprob, 1e-4f);
      ASSERT_EQ(got[i].top.size(), expected[i].top.size());
      for (std::size_t j = 0; j < got[i].top.size(); ++j) {
        EXPECT_EQ(got[i].top[j].first, expected[i].top[j].first);
        EXPECT_NEAR(got[i].top[j].second, expected[i].top[j].second, 1e-4f);
      }
    }
    // A uniform number may lie within rounding of the border between two tokens.
    EXPECT_LE(different, 2) << "of " << kRows << ", vocabulary " << vocab;
  }
}

TEST_P(Sample, GreedyRowsTakeTheLowestIdOfTheMaximum) {
  for (const i64 rows : {1, 5, 130}) {
    for (const i64 vocab : {1, 7, 4001, 129280}) {
      if (rows > 5 && vocab > 5000) continue;
      Host logits(DType::kF32, {rows, vocab});
      for (i64 i = 0; i < logits.size(); ++i) logits.set(i, static_cast<float>(rng.below(50)));
      const std::vector<SampleRow> greedy(static_cast<std::size_t>(rows));
      const auto got = sample(tested, logits, greedy);
      for (i64 r = 0; r < rows; ++r) {
        i64 best = 0;
        for (i64 i = 1; i < vocab; ++i)
          if (logits.get(r * vocab + i) > logits.get(r * vocab + best)) best = i;
        EXPECT_EQ(got[static_cast<std::size_t>(r)].id, best) << "row " << r << " of " << rows;
      }
    }
  }
}

TEST_P(Sample, BrokenRowsAreNamed) {
  for (const float bad : {kNaN, std::numeric_limits<float>::infinity()}) {
    Host logits = random_host(rng, DType::kF32, {3, 100});
    logits.set(2 * 100 + 57, bad);
    std::vector<SampleRow> rows(3);
    rows[1].temperature = 1;
    std::vector<SampledToken> out(3);
    const Status s = tested.ops().sample({tested.put(logits), rows, out}, tested.stream());
    ASSERT_FALSE(s);
    EXPECT_EQ(s.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(s.error().message.find("row 2"), std::string::npos) << s.error().message;
  }
}

}  // namespace
}  // namespace trireme::ops_test
