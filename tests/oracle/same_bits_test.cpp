// Deterministic mode: the logits of a token have the same bits however its context was computed.
#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "compare.h"
#include "devices.h"

namespace trireme {
namespace {

struct Case {
  const char* model;
  Mode mode;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model << " on " << c.mode.name; }

class SameBits : public testing::TestWithParam<Case> {
 protected:
  static constexpr int kSequences = 6;
  using Rows = std::vector<std::vector<float>>;  // logits of one token each

  void SetUp() override {
    SKIP_IF_MISSING(GetParam().mode);
    auto loaded = engine::load_runtime(GetParam().mode.options(source_dir() + GetParam().model));
    ASSERT_TRUE(loaded) << loaded.error().message;
    runtime = std::move(*loaded);
    runner = make(false);
    Rng rng(11);
    for (int i = 0; i < 300; ++i)
      tokens.push_back(static_cast<i32>(rng.below(static_cast<u64>(runtime.config.vocab_size))));
  }
  std::unique_ptr<engine::DirectRunner> make(bool graphs) {
    auto made = engine::DirectRunner::create(runtime, std::min<i64>(512, runtime.max_model_len), kSequences);
    EXPECT_TRUE(made) << made.error().message;
    if (graphs) {
      const auto recorded = (*made)->record({});
      EXPECT_TRUE(recorded) << recorded.error().message;
    }
    return std::move(*made);
  }
  std::span<const i32> prompt(std::size_t n, std::size_t from = 0) const {
    return std::span(tokens).subspan(from, n);
  }
  // Every row of a prompt that sequence s begins with, a chunk at a time.
  Rows prefill(engine::DirectRunner& r, std::span<const i32> ids, i64 chunk, int s = 0) {
    Rows rows(ids.size());
    r.restart(s);
    const auto done = r.prefill(
        ids, chunk,
        [&](i64 at, std::span<const float> row) {
          rows[static_cast<std::size_t>(at)].assign(row.begin(), row.end());
        },
        s);
    EXPECT_TRUE(done) << done.error().message;
    return rows;
  }
  Rows decode(engine::DirectRunner& r, std::span<const i32> next) {
    const auto vocab = static_cast<std::size_t>(runtime.config.vocab_size);
    const auto got = r.decode(next);
    EXPECT_TRUE(got) << got.error().message;
    if (!got) return {};
    std::vector<float> all(next.size() * vocab);
    EXPECT_TRUE(runtime.backend->device().copy_out(all.data(), got->data, static_cast<i64>(all.size()) * 4,
                                                   r.stream()));
    EXPECT_TRUE(r.stream().synchronize());
    Rows rows;
    for (std::size_t i = 0; i < next.size(); ++i)
      rows.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(i * vocab),
                        all.begin() + static_cast<std::ptrdiff_t>((i + 1) * vocab));
    return rows;
  }
  static void expect_same(const Rows& got, const Rows& wanted, const std::string& what) {
    ASSERT_EQ(got.size(), wanted.size()) << what;
    int others = 0;
    std::string first;
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i].size(), wanted[i].size()) << what << ", row " << i;
      if (std::memcmp(got[i].data(), wanted[i].data(), got[i].size() * 4) == 0) continue;
      if (others++ == 0) first = fmt::format("row {} is off by {:.1e}", i, relative_error(got[i], wanted[i]));
    }
    EXPECT_EQ(others, 0) << what << ": of " << got.size() << " rows; " << first;
  }

  engine::Runtime runtime;
  std::unique_ptr<engine::DirectRunner> runner;
  std::vector<i32> tokens;
};

TEST_P(SameBits, Again) {
  const auto once = prefill(*runner, prompt(300), 1000);
  expect_same(prefill(*runner, prompt(300), 1000), once, "the same again");
}

TEST_P(SameBits, InChunks) {
  const auto whole = prefill(*runner, prompt(300), 1000);
  for (const i64 chunk : {256, 100, 64, 32, 7})
    expect_same(prefill(*runner, prompt(300), chunk), whole, fmt::format("chunks of {}", chunk));
}

TEST_P(SameBits, TokenByToken) {
  // Generated tokens that a later prompt holds, or that are computed anew after a preemption.
  const auto whole = prefill(*runner, prompt(200), 1000);
  runner->restart();
  ASSERT_TRUE(runner->prefill(prompt(130), 1000));
  Rows rest;
  for (std::size_t i = 130; i < 200; ++i) rest.push_back(decode(*runner, prompt(1, i)).at(0));
  expect_same(rest, {whole.begin() + 130, whole.end()}, "decoded tokens");
}

TEST_P(SameBits, InABatch) {
  // Sequences of 1 to 257 tokens: their decode steps together, and each alone.
  const std::size_t lengths[kSequences] = {37, 1, 64, 150, 257, 128};
  const auto begin = [&] {
    for (int s = 0; s < kSequences; ++s)
      prefill(*runner, prompt(lengths[s], static_cast<std::size_t>(s)), 1000, s);
  };
  begin();
  Rows together;
  for (std::size_t step = 0; step < 4; ++step)
    for (auto& row : decode(*runner, prompt(kSequences, step))) together.push_back(std::move(row));
  begin();
  Rows alone(together.size());
  for (std::size_t s = 0; s < kSequences; ++s) {
    for (std::size_t step = 0; step < 4; ++step) {
      auto one = runner->decode_one(tokens[step + s], static_cast<int>(s));
      ASSERT_TRUE(one) << one.error().message;
      alone[step * kSequences + s] = std::move(*one);
    }
  }
  expect_same(together, alone, "a batch of six");
}

TEST_P(SameBits, InAGraph) {
  if (!runtime.backend->device().can_capture()) GTEST_SKIP() << "this device has no graphs";
  const auto recorded = make(true);
  for (const std::size_t n : {6u, 3u, 1u}) {
    Rows rows[2];
    for (int i = 0; i < 2; ++i) {
      engine::DirectRunner& r = i == 0 ? *runner : *recorded;
      for (int s = 0; s < kSequences; ++s)
        prefill(r, prompt(40u + 45u * static_cast<std::size_t>(s), static_cast<std::size_t>(s)), 1000, s);
      for (std::size_t step = 0; step < 4; ++step)
        for (auto& row : decode(r, prompt(n, step))) rows[i].push_back(std::move(row));
    }
    expect_same(rows[1], rows[0], fmt::format("graphs, {} sequences", n));
  }
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Mode& mode : {kCpuDeterministic, kCudaDeterministic, kCudaDeterministicBf16}) {
    for (const char* model :
         {"/models/trireme-demo", "/models/trireme-demo-draft", "/tests/oracle/data/llama",
          "/tests/oracle/data/mixtral", "/tests/oracle/data/deepseek"})
      out.push_back({model, mode});
  }
  out.push_back({"/models/trireme-demo", kCudaDeterministicFp8Cache});
  return out;
}
std::string name_of(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model;
  name = name.substr(name.rfind('/') + 1) + "_" + info.param.mode.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, SameBits, testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace trireme
