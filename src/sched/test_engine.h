// For tests: the engine's loop around a scheduler, a fake executor and a virtual clock. Collects what each
// request was answered, and holds it against what it would have been answered alone.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sched/fake_executor.h"
#include "sched/scheduler.h"

namespace trireme::sched {

struct Answer {
  std::vector<TokenId> tokens;
  Finish finish = Finish::kNone;
  std::optional<TokenId> matched_stop;
  Error error;
  i32 cached_tokens = 0;
  int ends = 0;
};

class TestEngine {
 public:
  explicit TestEngine(const SchedOptions& options, i32 vocab = 1000)
      : options_(validated(options).value()), vocab_(vocab), scheduler(options_), executor(options_, vocab) {}

  SeqId submit(Request request) {
    const auto id = try_submit(std::move(request));
    EXPECT_TRUE(id.has_value()) << (id ? "" : id.error().message);
    return id.value_or(SeqId{});
  }
  Result<SeqId> try_submit(Request request) {
    request.arrival = clock.now();
    request.payload = std::make_shared<const std::string>(request.cache_salt);
    Request copy = request;
    const auto id = scheduler.submit(std::move(request));
    if (id) requests.emplace(*id, std::move(copy));
    return id;
  }

  // One plan; executed at once, committed by the next commit(). False: it was idle.
  bool plan(bool fail_step = false, std::span<const SeqId> fail = {}) {
    StepPlan plan = scheduler.plan(clock.now());
    collect(scheduler.take_outputs());
    last_plan = plan;
    if (plan.is_idle()) {
      executor.forget(plan);
      return false;
    }
    for (const RankPlan& rank : plan.ranks) {
      for (const SeqSlice& slice : rank.slices) computed[slice.seq] += slice.count;
    }
    StepResult result = executor.run(plan, fail_step, fail);
    in_flight_.emplace_back(std::move(plan), std::move(result));
    return true;
  }
  void commit() {
    executor.settled();
    collect(scheduler.commit(in_flight_.front().first, in_flight_.front().second));
    in_flight_.pop_front();
  }
  std::size_t in_flight() const { return in_flight_.size(); }

  // One step in turn, or with plan n+1 before commit n.
  bool step(bool pipelined = false) {
    clock.advance(std::chrono::milliseconds(10));
    if (in_flight() == 2) commit();
    const bool planned = plan();
    const bool moved = planned || in_flight() > 0;
    if (in_flight() > (planned && pipelined ? 1U : 0U)) commit();
    return moved;
  }
  void run(bool pipelined = false, int max_steps = 10'000) {
    while (scheduler.has_work() && max_steps-- > 0) {
      if (!step(pipelined) && scheduler.has_work()) {
        ADD_FAILURE() << "nothing moves";
        return;
      }
      while (!pipelined && in_flight() > 0) commit();
    }
    while (in_flight() > 0) commit();
    collect(scheduler.take_outputs());
    EXPECT_FALSE(scheduler.has_work() && max_steps <= 0) << "it never ends";
    check();
  }

  // Every answer is what the request would be answered alone; nothing read what it should not.
  void check() {
    scheduler.check_integrity();
    for (const std::string& fault : executor.faults()) ADD_FAILURE() << fault;
    for (const auto& [id, answer] : answers) {
      const Request& r = requests.at(id);
      const auto alone = FakeExecutor::answer(*r.prompt, r.cache_salt, answer.tokens.size(), vocab_);
      EXPECT_EQ(answer.tokens, alone) << "sequence " << id.value;
      EXPECT_LE(answer.ends, 1) << "sequence " << id.value;
    }
  }
  // Nothing lives: every block is free once the cache is cleared.
  void expect_empty() {
    check();
    scheduler.clear_prefix_cache();
    const Stats stats = scheduler.stats();
    EXPECT_EQ(stats.kv_blocks_used, 0);
    EXPECT_EQ(stats.kv_blocks_cached, 0);
    EXPECT_EQ(stats.running + stats.waiting, 0);
    EXPECT_EQ(executor.known(), 0U);
    for (const auto& [id, request] : requests) EXPECT_EQ(answers[id].ends, 1) << "sequence " << id.value;
    scheduler.check_integrity();
  }

  const SeqSlice* slice_of(SeqId id) const {
    for (const RankPlan& rank : last_plan.ranks) {
      for (const SeqSlice& slice : rank.slices) {
        if (slice.seq == id) return &slice;
      }
    }
    return nullptr;
  }

 private:
  void collect(std::vector<Output> outputs) {
    for (Output& out : outputs) {
      Answer& answer = answers[out.seq];
      EXPECT_EQ(answer.ends, 0) << "news of sequence " << out.seq.value << " after its end";
      answer.tokens.insert(answer.tokens.end(), out.tokens.begin(), out.tokens.end());
      answer.cached_tokens = out.cached_tokens;
      if (out.finish == Finish::kNone) continue;
      ++answer.ends;
      answer.finish = out.finish;
      answer.matched_stop = out.matched_stop;
      answer.error = out.error;
    }
  }

  SchedOptions options_;
  i32 vocab_;
  std::deque<std::pair<StepPlan, StepResult>> in_flight_;

 public:
  VirtualClock clock;
  Scheduler scheduler;
  FakeExecutor executor;
  StepPlan last_plan;
  std::map<SeqId, Request> requests;
  std::map<SeqId, Answer> answers;
  std::map<SeqId, i64> computed;  // positions planned
};

inline std::vector<TokenId> random_tokens(u64 seed, std::size_t n, i32 vocab = 1000) {
  Rng rng(seed);
  std::vector<TokenId> out(n);
  for (TokenId& t : out) t = static_cast<TokenId>(rng.below(static_cast<u64>(vocab)));
  return out;
}
inline Request request_of(std::vector<TokenId> prompt, i32 max_tokens) {
  Request r;
  r.prompt = std::make_shared<const std::vector<TokenId>>(std::move(prompt));
  r.max_tokens = max_tokens;
  return r;
}

}  // namespace trireme::sched
