// The whole engine over the demo model: the same request gives the same tokens whatever company it is in, and
// whatever happens to it leaves nothing behind.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/rng.h"
#include "text/tokenizer.h"

namespace trireme {
namespace {

constexpr const char* kModel = TRIREME_SOURCE_DIR "/models/trireme-demo";

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

std::unique_ptr<Engine> make(const std::function<void(engine::EngineOptions&)>& change = {}) {
  engine::EngineOptions options;
  options.runtime.model = kModel;
  options.kv_cache_bytes = i64{1} << 30;
  if (change) change(options);
  auto made = engine::make_engine(options);
  EXPECT_TRUE(made) << made.error().message;
  return made ? std::move(*made) : nullptr;
}

const text::Tokenizer& tokenizer() {
  static const auto loaded = text::Tokenizer::load(kModel);
  return **loaded;
}

std::vector<i32> chat(const std::string& text) {
  auto ids = *tokenizer().encode("<|bos|><|user|>" + text + "<|assistant|>", {.parse_special = true});
  return ids;
}

// Prose of about n tokens that differs with `seed`.
std::string prose(int n, u64 seed) {
  static const char* words[] = {"package", "library", "the", "a",     "of",   "server",  "Debian", "tool",
                                "for",     "and",     "to",  "files", "with", "command", "line",   "network"};
  Rng rng(seed);
  std::string out = "Describe this:";
  for (int i = 0; i < n; ++i) out += std::string(" ") + words[rng.below(16)];
  return out;
}

Request greedy(std::vector<i32> prompt, int max_tokens = 40) {
  Request r;
  r.prompt = std::move(prompt);
  r.sampling.temperature = 0;
  r.sampling.max_tokens = max_tokens;
  r.sampling.ignore_eos = true;
  return r;
}

std::vector<i32> run(Engine& engine, Request r) {
  Collector c;
  auto id = engine.submit(std::move(r), c.sink());
  EXPECT_TRUE(id) << id.error().message;
  c.wait();
  return c.ids();
}

const std::vector<std::string>& questions() {
  static const std::vector<std::string> q = {"What is the Debian package wireshark?",
                                             "What is git?",
                                             "Who are you?",
                                             prose(150, 1),
                                             prose(333, 2),
                                             prose(70, 3)};
  return q;
}

std::vector<std::vector<i32>> alone() {
  static const auto answers = [] {
    auto engine = make();
    std::vector<std::vector<i32>> out;
    for (const auto& q : questions()) out.push_back(run(*engine, greedy(chat(q))));
    return out;
  }();
  return answers;
}

TEST(SameTokens, InABatchOfSixteen) {
  auto engine = make();
  std::vector<std::unique_ptr<Collector>> all;
  for (int i = 0; i < 16; ++i) {
    all.push_back(std::make_unique<Collector>());
    const auto q = static_cast<std::size_t>(i) % questions().size();
    ASSERT_TRUE(engine->submit(greedy(chat(questions()[q])), all.back()->sink()));
  }
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(all[static_cast<std::size_t>(i)]->wait(), FinishReason::kLength);
    EXPECT_EQ(all[static_cast<std::size_t>(i)]->ids(),
              alone()[static_cast<std::size_t>(i) % questions().size()])
        << "request " << i;
  }
}

TEST(SameTokens, InChunksOf32) {
  auto engine = make([](auto& o) { o.chunked_prefill_size = 32; });
  for (std::size_t i = 0; i < questions().size(); ++i)
    EXPECT_EQ(run(*engine, greedy(chat(questions()[i]))), alone()[i]) << questions()[i];
}

TEST(SameTokens, WithAPrefixHit) {
  auto engine = make();
  for (std::size_t i = 0; i < questions().size(); ++i) {
    run(*engine, greedy(chat(questions()[i]), 1));
    Collector c;
    ASSERT_TRUE(engine->submit(greedy(chat(questions()[i])), c.sink()));
    c.wait();
    EXPECT_EQ(c.ids(), alone()[i]) << questions()[i];
    const auto prompt = static_cast<int>(chat(questions()[i]).size());
    EXPECT_GE(c.cached(), (prompt - 1) / 64 * 64);
  }
}

TEST(SameTokens, AfterPreemption) {
  // Room for two of these requests at their full length, and eight at once: most are preempted on the way.
  auto engine = make([](auto& o) {
    o.kv_blocks = 17;
    o.prefix_caching = false;
  });
  std::vector<std::vector<i32>> wanted;
  {
    auto roomy = make();
    for (u64 i = 0; i < 8; ++i) wanted.push_back(run(*roomy, greedy(chat(prose(60, 10 + i)), 200)));
  }
  std::vector<std::unique_ptr<Collector>> all;
  for (u64 i = 0; i < 8; ++i) {
    all.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(engine->submit(greedy(chat(prose(60, 10 + i)), 200), all.back()->sink()));
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i]->wait(), FinishReason::kLength);
    EXPECT_EQ(all[i]->ids(), wanted[i]) << "request " << i;
  }
  EXPECT_GT(engine->stats().preemptions, 0);
}

TEST(SameTokens, OverSeveralTurnsInDeterministicMode) {
  // The second turn's prompt holds the first one's answer, which is in the cache as generated tokens.
  const auto two_turns = [](Engine& engine, bool warm) {
    auto prompt = chat(prose(100, 5));
    const auto answer = run(engine, greedy(prompt, 150));
    prompt.insert(prompt.end(), answer.begin(), answer.end());
    const auto more = chat("And its section?");
    prompt.insert(prompt.end(), more.begin() + 1, more.end());
    if (!warm) engine.clear_prefix_cache();
    return run(engine, greedy(prompt));
  };
  auto engine = make([](auto& o) { o.runtime.deterministic = true; });
  const auto warm = two_turns(*engine, true), cold = two_turns(*engine, false);
  EXPECT_EQ(warm, cold);
}

TEST(Sampling, TheSameSeedGivesTheSameTokensInAnyBatch) {
  auto engine = make();
  Request r = greedy(chat("What is git?"), 60);
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

TEST(Sampling, LogprobsBelongToTheTokensAndBestComesFirst) {
  auto engine = make();
  Request r = greedy(chat("What is git?"), 20);
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

TEST(Sampling, MinTokensHoldsTheEndBack) {
  auto engine = make();
  Request r = greedy(chat("Hello!"), 80);
  r.sampling.ignore_eos = false;
  const auto natural = run(*engine, r);
  ASSERT_LT(natural.size(), 80u) << "the model should end this answer by itself";
  r.sampling.min_tokens = static_cast<int>(natural.size()) + 5;
  EXPECT_GE(run(*engine, r).size(), natural.size() + 5);
}

TEST(PrefixCache, ASharedPrefixOf2000TokensIsComputedOnce) {
  auto engine = make();
  const std::string shared = prose(2000, 7);
  const auto ttft = [&](const std::string& question) {
    Collector c;
    const Time begin = SteadyClock().now();
    EXPECT_TRUE(engine->submit(greedy(chat(shared + question), 4), c.sink()));
    c.wait();
    return std::pair(seconds(c.first() - begin), c.cached());
  };
  run(*engine, greedy(chat("warm up"), 4));
  const auto [first, none] = ttft(" What is it?");
  const auto [second, cached] = ttft(" Who made it?");
  EXPECT_EQ(none, 0);
  EXPECT_GE(cached, 1920);
  fmt::print("TTFT {:.1f} ms, with the prefix cached {:.1f} ms: {:.1f} times less\n", first * 1e3,
             second * 1e3, first / second);
}

TEST(PrefixCache, IsSharedWhileTheFirstIsStillInPrefill) {
  auto engine = make([](auto& o) { o.max_num_batched_tokens = 256; });
  const std::string shared = prose(2500, 8);
  Collector a, b;
  ASSERT_TRUE(engine->submit(greedy(chat(shared + " one"), 4), a.sink()));
  ASSERT_TRUE(engine->submit(greedy(chat(shared + " two"), 4), b.sink()));
  a.wait(), b.wait();
  EXPECT_EQ(a.cached(), 0);
  EXPECT_GE(b.cached(), 2400);
}

TEST(PrefixCache, ABlockHoldsTheSameBitsWhoeverComputedIt) {
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

TEST(Deadline, EndsARequestWhileLongStepsRun) {
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

TEST(Cancel, AtRandomMomentsLeavesNothingBehind) {
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

TEST(Submit, RefusesWhatCanNeverWorkAndGoesOn) {
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
    auto id = engine->submit(greedy(chat("Hello!"), 400), all.back()->sink());
    if (id) continue;
    EXPECT_EQ(id.error().code, ErrorCode::kResourceExhausted);
    ++refused;
    all.pop_back();
  }
  EXPECT_GE(refused, 4);
  EXPECT_GE(engine->retry_after().count(), 1);
  for (auto& each : all) EXPECT_EQ(each->wait(), FinishReason::kLength);
}

TEST(Shutdown, EndsEveryRequestOnce) {
  auto engine = make();
  std::vector<std::unique_ptr<Collector>> all;
  for (int i = 0; i < 10; ++i) {
    all.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(engine->submit(greedy(chat(prose(200, static_cast<u64>(i))), 500), all.back()->sink()));
  }
  engine.reset();
  for (auto& c : all) EXPECT_EQ(c->wait(), FinishReason::kCancelled);
}

}  // namespace
}  // namespace trireme
