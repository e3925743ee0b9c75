// Deterministic mode: the logits of a token have the same bits however its context was computed.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

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

// Steps of several sequences, laid out by hand.
class Company {
 public:
  Company(const engine::Runtime& runtime, i64 blocks_each, i64 sequences)
      : runtime_(runtime), blocks_each_(blocks_each) {
    auto made = engine::KvCache::create(runtime.model->kv_layout(runtime.kv_dtype), blocks_each * sequences,
                                        runtime.backend->device());
    EXPECT_TRUE(made) << made.error().message;
    cache_ = std::move(*made);
    runner_ = std::make_unique<engine::StepRunner>(*runtime.model, *runtime.backend, cache_.layers());
    tables_.resize(static_cast<std::size_t>(blocks_each * sequences));
    std::iota(tables_.begin(), tables_.end(), 0);
  }
  struct Part {
    std::size_t sequence;
    std::span<const i32> tokens;
    i64 start = 0;
    i64 prompt = 0;  // tokens of the whole prompt; 0: these tokens are generated
  };
  // One step. Logits of every token of every part, in order.
  std::vector<std::vector<std::vector<float>>> step(const std::vector<Part>& parts) {
    std::vector<engine::Slice> slices;
    std::vector<std::size_t> owner;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Part& p = parts[i];
      engine::append_slices(
          slices,
          {.tokens = p.tokens,
           .start = p.start,
           .blocks = std::span(tables_).subspan(p.sequence * static_cast<std::size_t>(blocks_each_),
                                                static_cast<std::size_t>(blocks_each_)),
           .logits = engine::Slice::Logits::kAll},
          p.prompt);
      owner.resize(slices.size(), i);
    }
    std::vector<std::vector<std::vector<float>>> rows(parts.size());
    const auto out = runner_->run(slices);
    EXPECT_TRUE(out) << out.error().message;
    if (!out) return rows;
    const auto vocab = static_cast<std::size_t>(runtime_.config.vocab_size);
    std::vector<float> all(static_cast<std::size_t>(out->logits.shape.elements()));
    EXPECT_TRUE(runtime_.backend->device().copy_out(all.data(), out->logits.data, out->logits.bytes(),
                                                    runner_->stream()));
    EXPECT_TRUE(runner_->stream().synchronize());
    for (std::size_t i = 0; i < slices.size(); ++i) {
      const float* row = all.data() + static_cast<std::size_t>(out->first_row[i]) * vocab;
      for (std::size_t t = 0; t < slices[i].tokens.size(); ++t, row += vocab)
        rows[owner[i]].emplace_back(row, row + vocab);
    }
    return rows;
  }

 private:
  const engine::Runtime& runtime_;
  i64 blocks_each_;
  engine::KvCache cache_;
  std::unique_ptr<engine::StepRunner> runner_;
  std::vector<i32> tables_;
};

TEST_P(SameBits, APromptBesideOtherPrompts) {
  Company steps(runtime, 5, 8);
  for (const std::size_t n : {7u, 13u, 76u, 150u}) {
    const auto target = prompt(n, 100);
    const auto length = static_cast<i64>(n);
    const auto alone = steps.step({{0, target, 0, length}}).at(0);
    for (const std::size_t others : {1u, 13u, 64u, 290u, 700u}) {
      // Half of the company before it, half behind.
      std::vector<Company::Part> parts;
      std::size_t left = others, next = 1;
      const auto add = [&](std::size_t most) {
        while (most > 0 && left > 0) {
          const std::size_t k = std::min({most, left, std::size_t{150}});
          parts.push_back({next, prompt(k, next), 0, static_cast<i64>(k)});
          ++next, most -= k, left -= k;
        }
      };
      add((others + 1) / 2);
      const std::size_t at = parts.size();
      parts.push_back({0, target, 0, length});
      add(others);
      expect_same(steps.step(parts).at(at), alone, fmt::format("{} tokens beside {} others", n, others));
    }
  }
}

TEST_P(SameBits, GeneratedTokensBesideOthers) {
  constexpr std::size_t kMost = 40;
  Company steps(runtime, 5, kMost);
  std::vector<std::size_t> length;
  for (std::size_t s = 0; s < kMost; ++s) {
    length.push_back(5 + s * 37 % 200);
    steps.step({{s, prompt(length[s], s), 0, static_cast<i64>(length[s])}});
  }
  Rows alone;
  for (std::size_t s = 0; s < kMost; ++s)
    alone.push_back(steps.step({{s, prompt(1, s), static_cast<i64>(length[s])}}).at(0).at(0));
  for (const std::size_t n : {2u, 3u, 8u, 16u, 17u, 33u, 40u}) {
    std::vector<Company::Part> parts;
    for (std::size_t s = 0; s < n; ++s) parts.push_back({s, prompt(1, s), static_cast<i64>(length[s])});
    Rows rows;
    for (auto& one : steps.step(parts)) rows.push_back(std::move(one.at(0)));
    expect_same(rows, {alone.begin(), alone.begin() + static_cast<std::ptrdiff_t>(n)},
                fmt::format("{} sequences that generate", n));
  }
  for (const std::size_t others : {1u, 30u, 100u, 250u}) {  // and a chunk of a prompt
    std::vector<Company::Part> parts;
    for (std::size_t s = 0; s < 20; ++s) parts.push_back({s, prompt(1, s), static_cast<i64>(length[s])});
    parts.push_back({kMost - 1, prompt(others), 0, static_cast<i64>(others)});
    Rows rows;
    for (auto& one : steps.step(parts)) rows.push_back(std::move(one.at(0)));
    rows.resize(20);
    expect_same(rows, {alone.begin(), alone.begin() + 20},
                fmt::format("20 sequences that generate, and {} tokens of a prompt", others));
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
