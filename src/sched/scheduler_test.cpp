#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "sched/test_engine.h"

namespace trireme::sched {
namespace {

using std::chrono::milliseconds;

SchedOptions small() {
  SchedOptions o;
  o.num_blocks = 64;
  o.block_tokens = 4;
  o.max_model_len = 200;
  o.max_num_batched_tokens = 32;
  o.max_num_seqs = 8;
  return o;
}

TEST(Scheduler, AnswersARequestAndIsEmptyAfterwards) {
  TestEngine e(small());
  const SeqId id = e.submit(request_of(random_tokens(1, 10), 5));
  e.run();
  EXPECT_EQ(e.answers[id].tokens.size(), 5U);
  EXPECT_EQ(e.answers[id].finish, Finish::kLength);
  e.expect_empty();
}

TEST(Scheduler, ComputesEachTokenOnceAndNothingPastALengthLimit) {
  TestEngine e(small());
  const SeqId id = e.submit(request_of(random_tokens(1, 10), 5));
  e.run(/*pipelined=*/true);
  EXPECT_EQ(e.computed[id], 10 + 4);  // the last token is never fed back
}

TEST(Scheduler, CutsAnAnswerWhereTheModelsContextEnds) {
  TestEngine e(small());
  const SeqId id = e.submit(request_of(random_tokens(1, 190), 100));
  e.run(true);
  EXPECT_EQ(e.answers[id].tokens.size(), 10U);
  EXPECT_EQ(e.answers[id].finish, Finish::kLength);
}

TEST(Scheduler, StopsAtAStopTokenAndNamesIt) {
  const auto prompt = random_tokens(1, 10);
  const auto answer = FakeExecutor::answer(prompt, "", 8, 1000);
  for (const bool pipelined : {false, true}) {
    TestEngine e(small());
    Request r = request_of(prompt, 20);
    r.stop_token_ids = {answer[3]};
    const SeqId id = e.submit(r);
    e.run(pipelined);
    EXPECT_EQ(e.answers[id].tokens.size(), 4U);
    EXPECT_EQ(e.answers[id].finish, Finish::kStop);
    EXPECT_EQ(e.answers[id].matched_stop, answer[3]);
    e.expect_empty();
  }
}

TEST(Scheduler, IgnoresEosWhenAskedToButNotStopTokens) {
  const auto prompt = random_tokens(1, 10);
  const auto answer = FakeExecutor::answer(prompt, "", 8, 1000);
  TestEngine e(small());
  Request r = request_of(prompt, 20);
  r.eos_token_ids = {answer[1]};
  r.stop_token_ids = {answer[4]};
  const SeqId eos = e.submit(r);
  r.ignore_eos = true;
  const SeqId ignoring = e.submit(r);
  e.run();
  EXPECT_EQ(e.answers[eos].tokens.size(), 2U);
  EXPECT_EQ(e.answers[ignoring].tokens.size(), 5U);
}

TEST(Scheduler, DoesNotStopBeforeMinTokens) {
  const auto prompt = random_tokens(1, 10);
  const auto answer = FakeExecutor::answer(prompt, "", 8, 1000);
  TestEngine e(small());
  Request r = request_of(prompt, 20);
  r.eos_token_ids = {answer[1], answer[5]};
  r.min_tokens = 3;
  const SeqId id = e.submit(r);
  e.run(true);
  EXPECT_EQ(e.answers[id].tokens.size(), 6U);
}

TEST(Scheduler, ALongPromptNeverBlocksDecodes) {
  TestEngine e(small());
  const SeqId chat = e.submit(request_of(random_tokens(1, 4), 30));
  e.step();
  const SeqId book = e.submit(request_of(random_tokens(2, 150), 2));
  int steps = 0;
  while (e.answers[book].tokens.empty()) {
    e.step();
    ++steps;
    ASSERT_NE(e.slice_of(chat), nullptr);
    const SeqSlice* slice = e.slice_of(book);
    ASSERT_NE(slice, nullptr);
    EXPECT_LE(slice->count, 31);
  }
  EXPECT_EQ(steps, 5);
  e.run();
}

TEST(Scheduler, CutsPromptsIntoChunksOfTheGivenSize) {
  SchedOptions o = small();
  o.chunked_prefill_size = 7;
  TestEngine e(o);
  const SeqId id = e.submit(request_of(random_tokens(1, 30), 2));
  e.step();
  EXPECT_EQ(e.slice_of(id)->count, 7);
  EXPECT_FALSE(e.slice_of(id)->needs_sample);
  e.run();
}

TEST(Scheduler, ServesHigherPrioritiesFirst) {
  SchedOptions o = small();
  o.max_num_seqs = 1;
  TestEngine e(o);
  const SeqId low = e.submit(request_of(random_tokens(1, 5), 3));
  Request r = request_of(random_tokens(2, 5), 3);
  r.priority = 1;
  const SeqId high = e.submit(r);
  e.step();
  EXPECT_NE(e.slice_of(high), nullptr);
  EXPECT_EQ(e.slice_of(low), nullptr);
  e.run();
}

TEST(Scheduler, FcfsIgnoresPriorities) {
  SchedOptions o = small();
  o.max_num_seqs = 1;
  o.policy = SchedulePolicy::kFcfs;
  TestEngine e(o);
  const SeqId low = e.submit(request_of(random_tokens(1, 5), 3));
  Request r = request_of(random_tokens(2, 5), 3);
  r.priority = 1;
  e.submit(r);
  e.step();
  EXPECT_NE(e.slice_of(low), nullptr);
  e.run();
}

TEST(Scheduler, NobodySmallerSlipsPastTheFirstInLine) {
  SchedOptions o = small();
  o.num_blocks = 20;
  TestEngine e(o);
  e.submit(request_of(random_tokens(1, 40), 20));
  e.step();
  const SeqId big = e.submit(request_of(random_tokens(2, 50), 3));
  const SeqId tiny = e.submit(request_of(random_tokens(3, 4), 3));
  while (e.computed[big] == 0) {
    ASSERT_TRUE(e.step());
    EXPECT_TRUE(e.computed[tiny] == 0 || e.computed[big] > 0);
  }
  e.run();
}

TEST(Scheduler, ARunningPromptKeepsTheBlocksItWasPromised) {
  SchedOptions o = small();
  o.num_blocks = 15;
  o.chunked_prefill_size = 8;
  TestEngine e(o);
  const SeqId first = e.submit(request_of(random_tokens(1, 40), 2));
  const SeqId second = e.submit(request_of(random_tokens(2, 40), 2));
  while (e.answers[first].tokens.empty()) {
    e.step();
    EXPECT_EQ(e.computed[second], 0);
  }
  e.run();
  EXPECT_EQ(e.scheduler.stats().preemptions, 0);
}

TEST(Scheduler, RefusesWhatCanNeverBeServedAndSaysWhy) {
  SchedOptions o = small();
  o.num_blocks = 10;
  o.vocab_size = 1000;
  TestEngine e(o);
  const auto refused = [&](Request r) {
    const auto id = e.try_submit(std::move(r));
    EXPECT_FALSE(id);
    EXPECT_EQ(id ? ErrorCode::kInternal : id.error().code, ErrorCode::kInvalidArgument);
    return id ? std::string() : id.error().message;
  };
  EXPECT_NE(refused(request_of({}, 3)).find("no tokens"), std::string::npos);
  EXPECT_NE(refused(request_of(random_tokens(1, 200), 3)).find("limit of 200"), std::string::npos);
  EXPECT_NE(refused(request_of(random_tokens(1, 30), 12)).find("needs 11 KV blocks"), std::string::npos);
  EXPECT_NE(refused(request_of({1000}, 3)).find("vocabulary"), std::string::npos);
  EXPECT_NE(refused(request_of({-1}, 3)).find("vocabulary"), std::string::npos);
  EXPECT_NE(refused(request_of({1}, 0)).find("max_tokens"), std::string::npos);
  Request r = request_of({1}, 3);
  r.min_tokens = 4;
  EXPECT_NE(refused(r).find("min_tokens"), std::string::npos);
  Request fork = request_of({1}, 3);
  fork.fork_of = e.submit(request_of({2}, 3));
  EXPECT_NE(refused(fork).find("same prompt"), std::string::npos);
  e.submit(request_of(random_tokens(1, 30), 11));  // exactly the pool
  e.run();
}

TEST(Scheduler, RefusesMoreThanTheQueueHoldsAndSaysWhenToRetry) {
  SchedOptions o = small();
  o.max_num_seqs = 1;
  o.max_queued_requests = 2;
  TestEngine e(o);
  e.submit(request_of(random_tokens(1, 5), 30));
  e.step();
  e.submit(request_of(random_tokens(2, 5), 3));
  const SeqId second = e.submit(request_of(random_tokens(3, 5), 3));
  const auto third = e.try_submit(request_of(random_tokens(4, 5), 3));
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(third.error().message.find("retry in 1 s"), std::string::npos);
  EXPECT_GE(e.scheduler.retry_after(), std::chrono::seconds(1));
  e.scheduler.cancel(second);
  e.submit(request_of(random_tokens(4, 5), 3));
  e.run();
  e.expect_empty();
}

TEST(Scheduler, EndsARequestAtItsDeadlineInEveryPhase) {
  SchedOptions o = small();
  o.max_num_seqs = 1;
  TestEngine e(o);
  Request r = request_of(random_tokens(1, 5), 100);
  r.deadline = e.clock.now() + milliseconds(55);
  const SeqId running = e.submit(r);
  const SeqId queued = e.submit(r);
  EXPECT_EQ(e.scheduler.next_deadline(), r.deadline);
  e.run(true);
  EXPECT_EQ(e.answers[running].finish, Finish::kDeadline);
  EXPECT_EQ(e.answers[running].error.code, ErrorCode::kDeadlineExceeded);
  EXPECT_GE(e.answers[running].tokens.size(), 3U);
  EXPECT_EQ(e.answers[queued].finish, Finish::kDeadline);
  EXPECT_TRUE(e.answers[queued].tokens.empty());
  EXPECT_FALSE(e.scheduler.next_deadline());
  e.expect_empty();
}

TEST(Scheduler, LimitsTheTimeInTheQueueAndNotTheTimeAfter) {
  SchedOptions o = small();
  o.max_num_seqs = 1;
  o.max_queue_time = milliseconds(50);
  TestEngine e(o);
  const SeqId running = e.submit(request_of(random_tokens(1, 5), 20));
  const SeqId queued = e.submit(request_of(random_tokens(2, 5), 20));
  e.run();
  EXPECT_EQ(e.answers[running].finish, Finish::kLength);
  EXPECT_EQ(e.answers[queued].finish, Finish::kDeadline);
  e.expect_empty();
}

TEST(Scheduler, WhoHasEndedHasNoDeadline) {
  SchedOptions o = small();
  o.max_queue_time = std::chrono::hours(1);
  TestEngine e(o);
  Request r = request_of(random_tokens(1, 5), 2);
  r.deadline = e.clock.now() + std::chrono::hours(2);
  e.submit(r);
  e.run();
  EXPECT_FALSE(e.scheduler.next_deadline());
}

TEST(Scheduler, ASequenceThatEndedKeepsItsBlocksUntilItsLastStepIsCommitted) {
  const auto prompt = random_tokens(1, 10);
  TestEngine e(small());
  Request r = request_of(prompt, 20);
  r.stop_token_ids = {FakeExecutor::answer(prompt, "", 1, 1000)[0]};
  const SeqId id = e.submit(r);
  e.plan();
  e.plan();  // it assumes that the first token does not end the answer
  ASSERT_NE(e.slice_of(id), nullptr);
  e.commit();
  EXPECT_EQ(e.answers[id].finish, Finish::kStop);
  EXPECT_EQ(e.scheduler.stats().kv_blocks_used, 3);
  e.commit();
  EXPECT_EQ(e.answers[id].tokens.size(), 1U);
  EXPECT_EQ(e.scheduler.stats().kv_blocks_used, 0);
  EXPECT_TRUE(e.scheduler.has_work());  // the executor must still be told
  EXPECT_FALSE(e.plan());
  EXPECT_EQ(e.last_plan.ranks[0].departures, std::vector{id});
  e.expect_empty();
}

TEST(Scheduler, CancellationFreesEverythingInEveryPhase) {
  enum {
    kQueued,
    kFirstStepInFlight,
    kPrefill,
    kDecode,
    kTwoInFlight,
    kWaitingForPrefix,
    kPreempted,
    kPhases
  };
  for (int phase = 0; phase < kPhases; ++phase) {
    SCOPED_TRACE(phase);
    SchedOptions o = small();
    o.num_blocks = 12;
    TestEngine e(o);
    SeqId id{};
    if (phase == kWaitingForPrefix) {
      e.submit(request_of(random_tokens(1, 40), 4));
      e.step();
      id = e.submit(request_of(random_tokens(1, 40), 4));
      e.step();
      EXPECT_EQ(e.scheduler.stats().waiting_for_prefix, 1);
    } else if (phase == kPreempted) {
      e.submit(request_of(random_tokens(1, 20), 20));
      id = e.submit(request_of(random_tokens(2, 20), 20));
      for (int i = 0; i < 30 && e.scheduler.stats().waiting_preempted == 0; ++i) e.step(true);
      EXPECT_EQ(e.scheduler.stats().waiting_preempted, 1);
    } else {
      id = e.submit(request_of(random_tokens(1, 40), 4));
      if (phase == kFirstStepInFlight) e.plan();
      if (phase == kPrefill) e.step();
      if (phase == kDecode) {
        while (e.answers[id].tokens.empty()) e.step();
      }
      if (phase == kTwoInFlight) {
        e.plan();
        e.plan();
      }
    }
    e.scheduler.cancel(id);
    e.scheduler.cancel(id);  // twice is once
    e.scheduler.check_integrity();
    e.run(phase != kDecode);
    EXPECT_EQ(e.answers[id].finish, Finish::kCancelled);
    e.expect_empty();
  }
}

TEST(Scheduler, AnUnknownIdIsNotCancelled) {
  TestEngine e(small());
  e.scheduler.cancel(SeqId(99));
  EXPECT_TRUE(e.scheduler.take_outputs().empty());
}

TEST(Scheduler, OneFailedSequenceLeavesTheOthersUnharmed) {
  for (const bool pipelined : {false, true}) {
    TestEngine e(small());
    const SeqId good = e.submit(request_of(random_tokens(1, 10), 9));
    const SeqId bad = e.submit(request_of(random_tokens(2, 10), 9));
    e.plan(false, std::array{bad});
    if (pipelined) e.plan();
    e.run(pipelined);
    EXPECT_EQ(e.answers[bad].finish, Finish::kError);
    EXPECT_EQ(e.answers[bad].error.message, "it failed");
    EXPECT_EQ(e.answers[good].tokens.size(), 9U);
    e.expect_empty();
  }
}

TEST(Scheduler, AFailedStepEndsItsSequencesAndSharesNoneOfItsBlocks) {
  TestEngine e(small());
  const SeqId lost = e.submit(request_of(random_tokens(1, 20), 9));
  e.plan(/*fail_step=*/true);
  e.plan();
  e.commit();
  EXPECT_EQ(e.answers[lost].finish, Finish::kError);
  const SeqId next = e.submit(request_of(random_tokens(1, 20), 9));
  e.run(true);
  EXPECT_EQ(e.answers[next].cached_tokens, 0);
  EXPECT_EQ(e.answers[next].tokens.size(), 9U);
  e.expect_empty();
}

TEST(Scheduler, AnIdlePlanTakesNoStepNumber) {
  TestEngine e(small());
  EXPECT_FALSE(e.plan());
  e.submit(request_of({1, 2, 3}, 2));
  EXPECT_TRUE(e.plan());
  EXPECT_EQ(e.last_plan.step, 1U);
  e.run();
}

TEST(Scheduler, PlansForEveryRankAndSpreadsTheLoad) {
  SchedOptions o = small();
  o.ranks = 2;
  TestEngine e(o);
  for (u64 i = 0; i < 6; ++i) e.submit(request_of(random_tokens(i, 8), 6));
  e.step();
  ASSERT_EQ(e.last_plan.ranks.size(), 2U);
  EXPECT_EQ(e.last_plan.ranks[0].slices.size(), 3U);
  EXPECT_EQ(e.last_plan.ranks[1].slices.size(), 3U);
  e.run(true);
  e.expect_empty();
}

TEST(SchedulerDeathTest, ThreeStepsAreNeverInFlight) {
  TestEngine e(small());
  e.submit(request_of({1, 2, 3}, 9));
  e.plan();
  e.plan();
  EXPECT_DEATH(e.plan(), "two steps are in flight");
}

TEST(SchedOptions, AreJudgedOnce) {
  EXPECT_TRUE(validated(small()));
  const auto refused = [](auto change) {
    SchedOptions o = small();
    change(o);
    return !validated(o);
  };
  EXPECT_TRUE(refused([](SchedOptions& o) { o.num_blocks = 0; }));
  EXPECT_TRUE(refused([](SchedOptions& o) { o.block_tokens = 0; }));
  EXPECT_TRUE(refused([](SchedOptions& o) { o.max_num_seqs = 0; }));
  EXPECT_TRUE(refused([](SchedOptions& o) { o.max_num_batched_tokens = o.max_num_seqs - 1; }));
  EXPECT_TRUE(refused([](SchedOptions& o) { o.max_model_len = 1; }));
  EXPECT_TRUE(refused([](SchedOptions& o) { o.max_queued_requests = 0; }));
  EXPECT_TRUE(refused([](SchedOptions& o) { o.chunked_prefill_size = -1; }));
  EXPECT_TRUE(refused([](SchedOptions& o) { o.num_blocks = 1 << 30; }));
  EXPECT_EQ(parse_schedule_policy("fcfs").value(), SchedulePolicy::kFcfs);
  EXPECT_FALSE(parse_schedule_policy("random"));
}

}  // namespace
}  // namespace trireme::sched
