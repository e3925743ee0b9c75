// The whole engine over the demo model: the same request gives the same tokens whatever company it is in, and
// whatever happens to it leaves nothing behind.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <limits>
#include <map>
#include <mutex>
#include <thread>

#include "base/rng.h"
#include "devices.h"

namespace trireme {
namespace {

// Gathers the events of one request. Thread-safe.
class Collector {
 public:
  EventSink sink() {
    return [this](Event&& e) {
      std::lock_guard lock(mutex_);
      EXPECT_EQ(finish_, FinishReason::kNone) << "an event after the last one";
      for (const auto& t : e.tokens) tokens_.push_back(t);
      if (e.finish != FinishReason::kNone) {
        finish_ = e.finish;
        cached_ = e.cached_tokens;
        error_ = e.error;
      }
      if (first_ == Time{} && !e.tokens.empty()) first_ = SteadyClock().now();
      changed_.notify_all();
    };
  }
  // Waits for at least n tokens, or the end.
  bool wait_tokens(std::size_t n) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(120),
                             [&] { return tokens_.size() >= n || finish_ != FinishReason::kNone; });
  }
  FinishReason wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(300), [&] {
      return finish_ != FinishReason::kNone;
    })) << "no end";
    return finish_;
  }
  std::vector<i32> ids() {
    std::lock_guard lock(mutex_);
    std::vector<i32> out;
    for (const auto& t : tokens_) out.push_back(t.id);
    return out;
  }
  std::vector<OutputToken> tokens() {
    std::lock_guard lock(mutex_);
    return tokens_;
  }
  int cached() const { return cached_; }
  Time first() const { return first_; }
  const std::optional<Error>& error() const { return error_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<OutputToken> tokens_;
  FinishReason finish_ = FinishReason::kNone;
  std::optional<Error> error_;
  int cached_ = 0;
  Time first_{};
};

std::unique_ptr<Engine> make(const Mode& mode,
                             const std::function<void(engine::EngineOptions&)>& change = {}) {
  engine::EngineOptions options;
  options.runtime = mode.options(source_dir() + "/models/trireme-demo");
  options.graphs = mode.graphs;
  options.kv_cache_bytes = i64{1} << 30;
  if (change) change(options);
  auto made = engine::make_engine(options);
  EXPECT_TRUE(made) << made.error().message;
  return made ? std::move(*made) : nullptr;
}

// What the tokenizer makes of a question, begun and ended as in a chat. Written out, so that these tests need
// no tokenizer.
std::vector<i32> chat(std::vector<i32> question) {
  question.insert(question.begin(), {0, 3});
  question.push_back(4);
  return question;
}
const std::vector<i32> kGit = {756, 306, 1218, 37};  // What is git?
const std::vector<i32> kPackage = {756, 306,  274, 474,  387,
                                   299, 2364, 78,  1243, 37};    // ... Debian package ...
const std::vector<i32> kWho = {2865, 389, 562, 37};              // Who are you?
const std::vector<i32> kHello = {46, 443, 325, 7};               // Hello!
const std::vector<i32> kSection = {2081, 879, 717, 37};          // And its section?
const std::vector<i32> kWhatIsIt = {2835, 306, 390, 37};         //  What is it?
const std::vector<i32> kWhoMadeIt = {557, 2067, 2573, 390, 37};  //  Who made it?

// "Describe this:" and n words of one token each, which differ with `seed`.
std::vector<i32> prose(int n, u64 seed) {
  // package library the a of server Debian tool for and to files with command line network
  static const i32 words[] = {387, 468, 274, 265, 310, 911, 474, 764,
                              316, 312, 303, 492, 391, 623, 875, 1289};
  Rng rng(seed);
  std::vector<i32> out = {1905, 479, 32};
  for (int i = 0; i < n; ++i) out.push_back(words[rng.below(16)]);
  return out;
}
std::vector<i32> operator+(std::vector<i32> a, const std::vector<i32>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Request greedy(std::vector<i32> prompt, int max_tokens = 40) {
  Request r;
  r.prompt = std::move(prompt);
  r.sampling.temperature = 0;
  r.sampling.max_tokens = max_tokens;
  r.sampling.ignore_eos = true;
  return r;
}

std::vector<OutputToken> run_for_tokens(Engine& engine, Request r) {
  Collector c;
  auto id = engine.submit(std::move(r), c.sink());
  EXPECT_TRUE(id) << id.error().message;
  c.wait();
  return c.tokens();
}
std::vector<i32> run(Engine& engine, Request r) {
  std::vector<i32> ids;
  for (const auto& t : run_for_tokens(engine, std::move(r))) ids.push_back(t.id);
  return ids;
}

// A mode, and how far two tokens' log-probabilities may lie apart for rounding to put either first. 0: what
// runs in this mode gives the very same tokens in any company.
struct Promise {
  Mode mode;
  double gap;
};
void PrintTo(const Promise& p, std::ostream* out) { *out << p.mode.name; }
std::string name_of(const testing::TestParamInfo<Promise>& info) { return info.param.mode.name; }
std::string mode_name(const testing::TestParamInfo<Mode>& info) { return info.param.name; }

class SameTokens : public testing::TestWithParam<Promise> {
 protected:
  void SetUp() override { SKIP_IF_MISSING(GetParam().mode); }
  void TearDown() override {
    if (others_ > 0)
      fmt::print("{}: {} answers of {} went another way, at gaps up to {:.3f}\n", GetParam().mode.name,
                 others_, compared_, widest_);
  }
  std::unique_ptr<Engine> make(const std::function<void(engine::EngineOptions&)>& change = {}) {
    return trireme::make(GetParam().mode, change);
  }
  // The request, with what the comparison needs to know about each of its tokens.
  static Request reference(Request r) {
    r.sampling.logprobs = 5;
    return r;
  }
  // Where the promise is not of the very same tokens, an answer may go another way once, where the gap
  // allows; what follows is another text.
  void expect_same(const std::vector<i32>& got, const std::vector<OutputToken>& wanted,
                   const std::string& what) {
    ++compared_;
    ASSERT_EQ(got.size(), wanted.size()) << what;
    std::size_t i = 0;
    while (i < got.size() && got[i] == wanted[i].id) ++i;
    if (i == got.size()) return;
    ++others_;
    double gap = std::numeric_limits<double>::infinity();
    for (const auto& t : wanted[i].top_logprobs)
      if (t.token == got[i]) gap = static_cast<double>(wanted[i].chosen->logprob - t.logprob);
    widest_ = std::max(widest_, gap);
    EXPECT_TRUE(gap < GetParam().gap)
        << what << ": token " << got[i] << " instead of " << wanted[i].id << " at step " << i
        << ", whose log-probabilities are " << gap << " apart";
  }

 private:
  int compared_ = 0, others_ = 0;
  double widest_ = 0;
};

const std::vector<std::vector<i32>>& questions() {
  static const std::vector<std::vector<i32>> q = {
      chat(kPackage), chat(kGit), chat(kWho), chat(prose(150, 1)), chat(prose(333, 2)), chat(prose(70, 3))};
  return q;
}

// The answers of an engine that has nothing else to do.
const std::vector<std::vector<OutputToken>>& alone(const Mode& mode) {
  static std::map<std::string, std::vector<std::vector<OutputToken>>> answers;
  auto& out = answers[mode.name];
  if (out.empty()) {
    auto engine = make(mode);
    for (const auto& q : questions()) {
      Request r = greedy(q);
      r.sampling.logprobs = 5;
      out.push_back(run_for_tokens(*engine, r));
    }
  }
  return out;
}

TEST_P(SameTokens, InABatchOfSixteen) {
  auto engine = make();
  std::vector<std::unique_ptr<Collector>> all;
  for (std::size_t i = 0; i < 16; ++i) {
    all.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(engine->submit(greedy(questions()[i % questions().size()]), all.back()->sink()));
  }
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(all[i]->wait(), FinishReason::kLength);
    expect_same(all[i]->ids(), alone(GetParam().mode)[i % questions().size()], fmt::format("request {}", i));
  }
}

TEST_P(SameTokens, InChunksOf32) {
  auto engine = make([](auto& o) { o.chunked_prefill_size = 32; });
  for (std::size_t i = 0; i < questions().size(); ++i)
    expect_same(run(*engine, greedy(questions()[i])), alone(GetParam().mode)[i],
                fmt::format("question {}", i));
}

TEST_P(SameTokens, WithAPrefixHit) {
  auto engine = make();
  for (std::size_t i = 0; i < questions().size(); ++i) {
    run(*engine, greedy(questions()[i], 1));
    Collector c;
    ASSERT_TRUE(engine->submit(greedy(questions()[i]), c.sink()));
    c.wait();
    expect_same(c.ids(), alone(GetParam().mode)[i], fmt::format("question {}", i));
    EXPECT_GE(c.cached(), (static_cast<int>(questions()[i].size()) - 1) / 64 * 64);
  }
}

TEST_P(SameTokens, WithGraphsAndWithout) {
  if (!GetParam().mode.graphs) GTEST_SKIP() << "a mode without graphs";
  auto engine = make([](auto& o) { o.graphs = false; });
  for (std::size_t i = 0; i < questions().size(); ++i)
    expect_same(run(*engine, greedy(questions()[i])), alone(GetParam().mode)[i],
                fmt::format("question {}", i));
}

TEST_P(SameTokens, AfterPreemption) {
  // Room for two of these requests at their full length, and eight at once: most are preempted on the way.
  auto engine = make([](auto& o) {
    o.kv_blocks = 17;
    o.prefix_caching = false;
  });
  std::vector<std::vector<OutputToken>> wanted;
  {
    auto roomy = make();
    for (u64 i = 0; i < 8; ++i)
      wanted.push_back(run_for_tokens(*roomy, reference(greedy(chat(prose(60, 10 + i)), 200))));
  }
  std::vector<std::unique_ptr<Collector>> all;
  for (u64 i = 0; i < 8; ++i) {
    all.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(engine->submit(greedy(chat(prose(60, 10 + i)), 200), all.back()->sink()));
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]->wait(), FinishReason::kLength);
    expect_same(all[i]->ids(), wanted[i], fmt::format("request {}", i));
  }
  EXPECT_GT(engine->stats().preemptions, 0);
}

TEST_P(SameTokens, OverSeveralTurnsInDeterministicMode) {
  // The second turn's prompt holds the first one's answer, which is in the cache as generated tokens.
  const auto two_turns = [](Engine& engine, bool warm) {
    auto prompt = chat(prose(100, 5));
    prompt = prompt + run(engine, greedy(prompt, 150));
    const auto more = chat(kSection);
    prompt.insert(prompt.end(), more.begin() + 1, more.end());
    if (!warm) engine.clear_prefix_cache();
    return run_for_tokens(engine, reference(greedy(prompt)));
  };
  auto engine = make([](auto& o) {
    o.runtime.deterministic = true;
    o.runtime.fp8_prefill_attention = false;  // the two exclude each other
  });
  const auto warm = two_turns(*engine, true), cold = two_turns(*engine, false);
  ASSERT_EQ(warm.size(), cold.size());
  for (std::size_t i = 0; i < warm.size(); ++i) {
    EXPECT_EQ(warm[i].id, cold[i].id) << "step " << i;
    EXPECT_EQ(warm[i].chosen->logprob, cold[i].chosen->logprob) << "step " << i;
  }
}

TEST_P(SameTokens, LogProbabilitiesToTheLastBitWherePromised) {
  if (GetParam().gap > 0) GTEST_SKIP() << "this mode promises no bits";
  auto engine = make([](auto& o) { o.chunked_prefill_size = 100; });
  std::vector<std::unique_ptr<Collector>> all;
  for (const auto& q : questions()) {
    all.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(engine->submit(reference(greedy(q)), all.back()->sink()));
  }
  for (std::size_t q = 0; q < all.size(); ++q) {
    all[q]->wait();
    const auto got = all[q]->tokens(), wanted = alone(GetParam().mode)[q];
    ASSERT_EQ(got.size(), wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(got[i].chosen->logprob, wanted[i].chosen->logprob) << "question " << q << ", step " << i;
  }
}

// Rounding of BF16 activations moves these logits by about 0.1, that of activations, a cache or prompts'
// attention in FP8 by a few times as much.
INSTANTIATE_TEST_SUITE_P(All, SameTokens,
                         testing::Values(Promise{kCpu, 0}, Promise{kCuda, 0.6}, Promise{kCudaEager, 0.6},
                                         Promise{kCudaBf16, 0.15}, Promise{kCudaFp8Cache, 2.0},
                                         Promise{kCudaFp8Prefill, 2.0}, Promise{kCudaDeterministic, 0},
                                         Promise{kCudaDeterministicEager, 0},
                                         Promise{kCudaDeterministicBf16, 0},
                                         Promise{kCudaDeterministicFp8Cache, 0}),
                         name_of);

// What must hold on a device however it rounds.
class OnEveryDevice : public testing::TestWithParam<Mode> {
 protected:
  void SetUp() override { SKIP_IF_MISSING(GetParam()); }
  std::unique_ptr<Engine> make(const std::function<void(engine::EngineOptions&)>& change = {}) {
    return trireme::make(GetParam(), change);
  }
};
class Sampling : public OnEveryDevice {};
class PrefixCache : public OnEveryDevice {};
class Lifecycle : public OnEveryDevice {};

TEST_P(Sampling, TheSameSeedGivesTheSameTokensInAnyBatch) {
  if (GetParam().cuda && !GetParam().deterministic) GTEST_SKIP() << "logits depend on the batch in this mode";
  auto engine = make();
  Request r = greedy(chat(kGit), 60);
  r.sampling.temperature = 1.0;
  r.sampling.top_p = 0.9;
  r.sampling.seed = 42;
  const auto first = run(*engine, r);
  std::vector<std::unique_ptr<Collector>> all;
  for (int i = 0; i < 8; ++i) {
    all.push_back(std::make_unique<Collector>());
    Request other = r;
    if (i != 4) other.sampling.seed = 1000 + i;
    ASSERT_TRUE(engine->submit(other, all.back()->sink()));
  }
  for (auto& c : all) c->wait();
  EXPECT_EQ(all[4]->ids(), first);
  EXPECT_NE(all[0]->ids(), first);
}

TEST_P(Sampling, LogprobsBelongToTheTokensAndBestComesFirst) {
  auto engine = make();
  Request r = greedy(chat(kGit), 20);
  r.sampling.logprobs = 5;
  Collector c;
  ASSERT_TRUE(engine->submit(r, c.sink()));
  c.wait();
  for (const auto& t : c.tokens()) {
    ASSERT_TRUE(t.chosen);
    ASSERT_EQ(t.top_logprobs.size(), 5u);
    EXPECT_EQ(t.top_logprobs[0].token, t.id);  // greedy
    EXPECT_FLOAT_EQ(t.top_logprobs[0].logprob, t.chosen->logprob);
    EXPECT_LE(t.chosen->logprob, 0);
    for (std::size_t i = 1; i < 5; ++i) EXPECT_LE(t.top_logprobs[i].logprob, t.top_logprobs[i - 1].logprob);
  }
}

TEST_P(Sampling, MinTokensHoldsTheEndBack) {
  auto engine = make();
  Request r = greedy(chat(kHello), 80);
  r.sampling.ignore_eos = false;
  const auto natural = run(*engine, r);
  ASSERT_LT(natural.size(), 80u) << "the model should end this answer by itself";
  r.sampling.min_tokens = static_cast<int>(natural.size()) + 5;
  EXPECT_GE(run(*engine, r).size(), natural.size() + 5);
}

TEST_P(PrefixCache, ASharedPrefixOf2000TokensIsComputedOnce) {
  auto engine = make();
  const auto shared = prose(2000, 7);
  const auto ttft = [&](const std::vector<i32>& question) {
    Collector c;
    const Time begin = SteadyClock().now();
    EXPECT_TRUE(engine->submit(greedy(chat(shared + question), 4), c.sink()));
    c.wait();
    return std::pair(seconds(c.first() - begin), c.cached());
  };
  run(*engine, greedy(chat(kHello), 4));
  const auto [first, none] = ttft(kWhatIsIt);
  const auto [second, cached] = ttft(kWhoMadeIt);
  EXPECT_EQ(none, 0);
  EXPECT_GE(cached, 1920);
  fmt::print("TTFT {:.1f} ms, with the prefix cached {:.1f} ms: {:.1f} times less\n", first * 1e3,
             second * 1e3, first / second);
}

TEST_P(PrefixCache, IsSharedWhileTheFirstIsStillInPrefill) {
  auto engine = make([](auto& o) { o.max_num_batched_tokens = 256; });
  const auto shared = prose(2500, 8);
  Collector a, b;
  ASSERT_TRUE(engine->submit(greedy(chat(shared + kWhatIsIt), 4), a.sink()));
  ASSERT_TRUE(engine->submit(greedy(chat(shared + kWhoMadeIt), 4), b.sink()));
  a.wait(), b.wait();
  EXPECT_EQ(a.cached(), 0);
  EXPECT_GE(b.cached(), 2400);
}

TEST_P(PrefixCache, ABlockHoldsTheSameBitsWhoeverComputedIt) {
  if (GetParam().cuda && !GetParam().deterministic) GTEST_SKIP() << "bits depend on the chunk in this mode";
  // A prompt that ends with its second block, and a longer one that begins with it.
  auto whole = chat(prose(400, 21));
  whole.resize(300);
  const std::vector<i32> start(whole.begin(), whole.begin() + 128);
  const auto logprobs = [](Engine& engine, const std::vector<i32>& prompt) {
    Request r = greedy(prompt, 8);
    r.sampling.logprobs = 1;
    Collector c;
    EXPECT_TRUE(engine.submit(r, c.sink()));
    c.wait();
    std::vector<float> out;
    for (const auto& t : c.tokens()) out.push_back(t.chosen->logprob);
    return std::pair(out, c.cached());
  };
  auto cold = make(), warm = make();
  const auto expected = logprobs(*cold, whole).first;
  run(*warm, greedy(start, 1));
  const auto [got, cached] = logprobs(*warm, whole);
  EXPECT_EQ(cached, 128);
  EXPECT_EQ(got, expected);
}

TEST_P(Lifecycle, DeadlineEndsARequestWhileLongStepsRun) {
  auto engine = make([](auto& o) { o.runtime.threads = 1; });
  Collector c;
  Request r = greedy(chat(prose(2500, 9)), 400);
  r.timeout = std::chrono::milliseconds(10);
  const Time begin = SteadyClock().now();
  ASSERT_TRUE(engine->submit(r, c.sink()));
  EXPECT_EQ(c.wait(), FinishReason::kDeadline);
  ASSERT_TRUE(c.error());
  // Far less than the prompt takes: the end does not wait for the step that runs.
  EXPECT_LT(seconds(SteadyClock().now() - begin), 0.25);
}

TEST_P(Lifecycle, CancelAtRandomMomentsLeavesNothingBehind) {
  auto engine = make([](auto& o) {
    o.max_num_batched_tokens = 128;
    o.max_num_seqs = 64;
  });
  Rng rng(3);
  std::vector<std::unique_ptr<Collector>> all;
  for (int i = 0; i < 200; ++i) {
    all.push_back(std::make_unique<Collector>());
    auto id = engine->submit(greedy(chat(prose(static_cast<int>(rng.below(300)), rng.next())), 100),
                             all.back()->sink());
    ASSERT_TRUE(id);
    std::this_thread::sleep_for(std::chrono::microseconds(rng.below(3000)));
    if (rng.below(2) == 0) {
      all.back()->wait_tokens(rng.below(5));
    }
    engine->cancel(*id);
  }
  for (auto& c : all) {
    const auto end = c->wait();
    EXPECT_TRUE(end == FinishReason::kCancelled || end == FinishReason::kLength);
  }
  for (int i = 0; i < 100 && engine->stats().live_sequences > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const auto s = engine->stats();
  EXPECT_EQ(s.running + s.waiting, 0);
  EXPECT_EQ(s.live_sequences, 0);
  EXPECT_EQ(s.kv_blocks_used, 0);
}

TEST_P(Lifecycle, SubmitRefusesWhatCanNeverWorkAndGoesOn) {
  auto engine = make([](auto& o) {
    o.max_queued_requests = 2;
    o.max_num_seqs = 1;
  });
  Collector c;
  const auto code = [&](Request r) {
    auto id = engine->submit(std::move(r), c.sink());
    EXPECT_FALSE(id);
    return id ? ErrorCode::kInternal : id.error().code;
  };
  EXPECT_EQ(code(greedy({})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(greedy({4096})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(greedy({-1})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(greedy(std::vector<i32>(4097, 5))), ErrorCode::kInvalidArgument);
  Request bad = greedy({5});
  bad.sampling.temperature = std::nan("");
  EXPECT_EQ(code(bad), ErrorCode::kInvalidArgument);

  std::vector<std::unique_ptr<Collector>> all;
  int refused = 0;
  for (int i = 0; i < 8; ++i) {
    all.push_back(std::make_unique<Collector>());
    auto id = engine->submit(greedy(chat(kHello), 400), all.back()->sink());
    if (id) continue;
    EXPECT_EQ(id.error().code, ErrorCode::kResourceExhausted);
    ++refused;
    all.pop_back();
  }
  EXPECT_GE(refused, 4);
  EXPECT_GE(engine->retry_after().count(), 1);
  for (auto& each : all) EXPECT_EQ(each->wait(), FinishReason::kLength);
}

TEST_P(Lifecycle, ShutdownEndsEveryRequestOnce) {
  auto engine = make();
  std::vector<std::unique_ptr<Collector>> all;
  for (int i = 0; i < 10; ++i) {
    all.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(engine->submit(greedy(chat(prose(200, static_cast<u64>(i))), 500), all.back()->sink()));
  }
  engine.reset();
  for (auto& c : all) EXPECT_EQ(c->wait(), FinishReason::kCancelled);
}

constexpr auto kDevices = [] { return testing::Values(kCpu, kCuda, kCudaDeterministic); };
INSTANTIATE_TEST_SUITE_P(All, Sampling, kDevices(), mode_name);
INSTANTIATE_TEST_SUITE_P(All, PrefixCache, kDevices(), mode_name);
INSTANTIATE_TEST_SUITE_P(All, Lifecycle, kDevices(), mode_name);

}  // namespace
}  // namespace trireme
