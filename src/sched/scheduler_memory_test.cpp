// Sharing, copying, preemption and fairness, end to end through plans.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "sched/test_engine.h"

namespace trireme::sched {
namespace {

SchedOptions small() {
  SchedOptions o;
  o.num_blocks = 200;
  o.block_tokens = 4;
  o.max_model_len = 400;
  o.max_num_batched_tokens = 32;
  o.max_num_seqs = 8;
  return o;
}

// Leaves room in a step beside a prompt that is being computed.
SchedOptions chunked() {
  SchedOptions o = small();
  o.chunked_prefill_size = 24;
  return o;
}

std::vector<TokenId> with_suffix(std::vector<TokenId> prefix, u64 seed, std::size_t n) {
  for (TokenId t : random_tokens(seed, n)) prefix.push_back(t);
  return prefix;
}

TEST(SchedulerPrefix, ASecondRequestWaitsForThePrefixThatTheFirstIsStillComputing) {
  for (const bool pipelined : {false, true}) {
    TestEngine e(chunked());
    const auto prefix = random_tokens(1, 200);
    const SeqId first = e.submit(request_of(with_suffix(prefix, 2, 10), 3));
    e.step(pipelined);
    e.step(pipelined);
    const SeqId second = e.submit(request_of(with_suffix(prefix, 3, 10), 3));
    e.step(pipelined);
    ASSERT_TRUE(e.answers[first].tokens.empty());
    EXPECT_EQ(e.scheduler.stats().waiting_for_prefix, 1);
    e.run(pipelined);
    EXPECT_EQ(e.answers[second].cached_tokens, 200);
    EXPECT_EQ(e.computed[second], 10 + 2);  // its own suffix, and what it generates
    e.expect_empty();
  }
}

TEST(SchedulerPrefix, AWaiterGoesOnByItselfWhenTheOwnerIsCancelled) {
  TestEngine e(chunked());
  const auto prompt = random_tokens(1, 200);
  const SeqId first = e.submit(request_of(prompt, 3));
  e.step();
  const SeqId second = e.submit(request_of(prompt, 3));
  e.step();
  EXPECT_EQ(e.scheduler.stats().waiting_for_prefix, 1);
  e.scheduler.cancel(first);
  e.run();
  EXPECT_EQ(e.answers[second].tokens.size(), 3U);
  EXPECT_EQ(e.answers[second].cached_tokens, 48);  // what the first got done in two steps
  e.expect_empty();
}

TEST(SchedulerPrefix, OthersAreServedWhileOneWaitsForAPrefix) {
  TestEngine e(chunked());
  e.submit(request_of(random_tokens(1, 200), 3));
  e.step();
  const SeqId waiter = e.submit(request_of(random_tokens(1, 200), 3));
  const SeqId other = e.submit(request_of(random_tokens(9, 8), 1));
  e.step();
  EXPECT_EQ(e.answers[other].finish, Finish::kLength);
  EXPECT_EQ(e.computed[waiter], 0);
  e.run();
  EXPECT_EQ(e.answers[waiter].cached_tokens, 199);
}

TEST(SchedulerPrefix, AFullHitCopiesTheLastBlockAndComputesOneToken) {
  TestEngine e(small());
  const auto prompt = random_tokens(1, 40);  // ten whole blocks
  e.submit(request_of(prompt, 3));
  e.run();
  const SeqId second = e.submit(request_of(prompt, 3));
  e.plan();
  ASSERT_EQ(e.last_plan.ranks[0].copies.size(), 1U);
  EXPECT_EQ(e.last_plan.ranks[0].copies[0].tokens, 3);
  EXPECT_EQ(e.slice_of(second)->start, 39);
  EXPECT_EQ(e.slice_of(second)->count, 1);
  e.commit();
  e.run();
  EXPECT_EQ(e.answers[second].cached_tokens, 39);
  e.expect_empty();
}

TEST(SchedulerPrefix, ForksCopyThePartialLastBlockOfTheirPrompt) {
  for (const bool pipelined : {false, true}) {
    TestEngine e(small());
    Request r = request_of(random_tokens(1, 43), 6);
    const SeqId first = e.submit(r);
    r.fork_of = first;
    const SeqId second = e.submit(r), third = e.submit(r);
    e.run(pipelined);
    for (const SeqId fork : {second, third}) {
      EXPECT_EQ(e.answers[fork].cached_tokens, 42);
      EXPECT_EQ(e.computed[fork], 1 + 5);
    }
    e.expect_empty();
  }
}

TEST(SchedulerPrefix, TheNextTurnOfAChatFindsTheLastAnswer) {
  for (const bool mix : {true, false}) {
    SchedOptions o = small();
    o.mix_generated = mix;
    TestEngine e(o);
    const auto prompt = random_tokens(1, 20);
    const SeqId turn = e.submit(request_of(prompt, 21));
    e.run();
    auto longer = prompt;
    longer.insert(longer.end(), e.answers[turn].tokens.begin(), e.answers[turn].tokens.end());
    const SeqId next = e.submit(request_of(with_suffix(longer, 3, 5), 2));
    e.run();
    EXPECT_EQ(e.answers[next].cached_tokens, mix ? 40 : 20);
  }
}

TEST(SchedulerPrefix, SaltsIsolateTenants) {
  TestEngine e(small());
  Request r = request_of(random_tokens(1, 40), 3);
  r.cache_salt = "a";
  e.submit(r);
  e.run();
  r.cache_salt = "b";
  const SeqId other = e.submit(r);
  e.run();
  EXPECT_EQ(e.answers[other].cached_tokens, 0);
  r.cache_salt = "a";
  const SeqId same = e.submit(r);
  e.run();
  EXPECT_EQ(e.answers[same].cached_tokens, 39);
}

TEST(SchedulerPrefix, CollidingHashesAreMisses) {
  SchedOptions o = small();
  o.hash_bits = 1;
  TestEngine e(o);
  for (u64 i = 0; i < 12; ++i) e.submit(request_of(random_tokens(i, 10 + i), 9));
  e.run(true);
  e.expect_empty();
}

TEST(SchedulerPrefix, CanBeSwitchedOff) {
  SchedOptions o = small();
  o.prefix_caching = false;
  TestEngine e(o);
  e.submit(request_of(random_tokens(1, 40), 3));
  e.run();
  const SeqId second = e.submit(request_of(random_tokens(1, 40), 3));
  e.run();
  EXPECT_EQ(e.answers[second].cached_tokens, 0);
  EXPECT_EQ(e.scheduler.stats().kv_blocks_cached, 0);
}

TEST(SchedulerPreemption, RecomputesAndGoesOnWithTheSameAnswer) {
  for (const bool pipelined : {false, true}) {
    for (const bool mix : {false, true}) {
      SchedOptions o = small();
      o.num_blocks = 16;
      o.mix_generated = mix;
      TestEngine e(o);
      std::vector<SeqId> ids;
      for (u64 i = 0; i < 4; ++i) ids.push_back(e.submit(request_of(random_tokens(i, 9), 40)));
      e.run(pipelined);
      EXPECT_GT(e.scheduler.stats().preemptions, 0);
      for (SeqId id : ids) EXPECT_EQ(e.answers[id].tokens.size(), 40U);
      e.expect_empty();
    }
  }
}

TEST(SchedulerPreemption, TakesTheLowestPriorityAndThenTheLatest) {
  SchedOptions o = small();
  o.num_blocks = 12;
  TestEngine e(o);
  Request low = request_of(random_tokens(1, 12), 30), high = request_of(random_tokens(2, 12), 30);
  high.priority = 1;
  const SeqId victim = e.submit(low);
  const SeqId first = e.submit(high);
  const SeqId second = e.submit([&] {
    Request r = request_of(random_tokens(3, 12), 30);
    r.priority = 1;
    return r;
  }());
  std::vector<SeqId> ends;
  while (e.scheduler.has_work()) {
    e.step();
    for (const SeqId id : {victim, first, second}) {
      if (e.answers[id].ends == 1 && std::ranges::find(ends, id) == ends.end()) ends.push_back(id);
    }
  }
  EXPECT_EQ(ends, (std::vector{first, second, victim}));
  EXPECT_GT(e.scheduler.stats().preemptions, 0);
  e.expect_empty();
}

TEST(SchedulerPreemption, ASequenceThatFillsThePoolIsServedAlone) {
  SchedOptions o = small();
  o.num_blocks = 10;
  TestEngine e(o);
  const SeqId big = e.submit(request_of(random_tokens(1, 30), 11));
  const SeqId other = e.submit(request_of(random_tokens(2, 30), 11));
  e.run(true);
  EXPECT_EQ(e.answers[big].tokens.size(), 11U);
  EXPECT_EQ(e.answers[other].tokens.size(), 11U);
  e.expect_empty();
}

TEST(SchedulerPreemption, RecomputedSlicesNeverStraddleThePromptsEnd) {
  SchedOptions o = small();
  o.num_blocks = 13;
  o.prefix_caching = false;
  TestEngine e(o);
  e.submit(request_of(random_tokens(1, 10), 38));
  const SeqId victim = e.submit(request_of(random_tokens(2, 10), 38));
  bool saw_long_generated_slice = false;
  while (e.scheduler.has_work()) {
    e.step();
    const SeqSlice* slice = e.slice_of(victim);
    if (slice != nullptr && slice->count > 1 && slice->is_generated) saw_long_generated_slice = true;
  }
  EXPECT_TRUE(saw_long_generated_slice);
  e.check();
}

TEST(SchedulerFairness, AFloodingTenantGetsNoMoreThanItsShare) {
  SchedOptions o = small();
  o.max_queued_requests = 1000;
  TestEngine e(o);
  Rng rng(1);
  const auto submit = [&](const char* tenant, std::size_t prompt, i32 answer) {
    Request r = request_of(random_tokens(rng.next(), prompt), answer);
    r.tenant = tenant;
    e.submit(r);
  };
  for (int i = 0; i < 500; ++i) submit("flood", 20 + rng.below(20), 10);
  for (int i = 0; i < 20; ++i) e.step();
  for (int i = 0; i < 200; ++i) submit("quiet", 5 + rng.below(10), 25);
  const auto tokens = [&] {
    std::map<std::string, i64> out;
    for (const TenantStats& t : e.scheduler.stats().tenants)
      out[t.name] = t.prompt_tokens + 2 * t.generated_tokens;
    return out;
  };
  const auto before = tokens();
  for (int i = 0; i < 300; ++i) e.step();
  const auto after = tokens();
  ASSERT_GT(e.scheduler.stats().waiting_for_room, 20);  // both are still backlogged
  const double quiet =
      static_cast<double>(after.at("quiet") - (before.contains("quiet") ? before.at("quiet") : 0));
  const double flood = static_cast<double>(after.at("flood") - before.at("flood"));
  EXPECT_NEAR(quiet / (quiet + flood), 0.5, 0.05);
}

TEST(SchedulerFairness, AnIdleTenantBanksNoCredit) {
  Tenants tenants;
  const TenantId busy = tenants.join("busy");
  tenants.charge_generated(busy, 1000);
  const TenantId late = tenants.join("late");
  EXPECT_EQ(tenants.counter(late), 2000);
  tenants.leave(late);
  tenants.charge_prompt(busy, 500);
  EXPECT_EQ(tenants.counter(tenants.join("late")), 2500);
}

TEST(SchedulerFairness, ADebtOutlivesAnIdleTimeAndForgottenNamesOweNothing) {
  Tenants tenants;
  const TenantId poor = tenants.join("poor");
  tenants.charge_prompt(poor, 10);
  const TenantId rich = tenants.join("rich");
  tenants.charge_prompt(rich, 1000);
  tenants.leave(rich);
  for (int i = 0; i < 5000; ++i) tenants.leave(tenants.join(std::to_string(i)));
  EXPECT_LT(tenants.stats().size(), 1100U);
  EXPECT_EQ(tenants.counter(tenants.join("rich")), 1010);
}

TEST(SchedulerSpeed, PlansFiveHundredAndTwelveDecodesInWellUnderAMillisecond) {
  SchedOptions o;
  o.num_blocks = 20'000;
  o.max_model_len = 4096;
  o.max_num_seqs = 512;
  o.max_num_batched_tokens = 8192;
  Scheduler scheduler(validated(o).value());
  for (u64 i = 0; i < 512; ++i) {
    Request r = request_of(random_tokens(i, 2000), 1000);
    r.tenant = std::to_string(i % 16);
    ASSERT_TRUE(scheduler.submit(r));
  }
  std::vector<double> plan_ms, commit_ms;
  const auto ms_since = [](auto start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  for (int i = 0; i < 500; ++i) {
    auto start = std::chrono::steady_clock::now();
    const StepPlan plan = scheduler.plan({});
    const double planned = ms_since(start);
    StepResult result;
    for (const SeqSlice& slice : plan.ranks[0].slices) {
      if (slice.needs_sample) result.tokens.push_back(7);
    }
    const bool all_decode = result.tokens.size() == 512;
    start = std::chrono::steady_clock::now();
    scheduler.commit(plan, result);
    if (!all_decode) continue;
    plan_ms.push_back(planned);
    commit_ms.push_back(ms_since(start));
  }
  ASSERT_GT(plan_ms.size(), 100U);
  std::ranges::sort(plan_ms);
  std::ranges::sort(commit_ms);
  fmt::print("512 decodes: plan {:.3f} ms, commit {:.3f} ms (median of {})\n", plan_ms[plan_ms.size() / 2],
             commit_ms[commit_ms.size() / 2], plan_ms.size());
  EXPECT_LT(plan_ms[plan_ms.size() / 2], 1.0);
  EXPECT_LT(commit_ms[commit_ms.size() / 2], 2.0);
}

}  // namespace
}  // namespace trireme::sched
