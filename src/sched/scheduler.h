// Continuous batching: which tokens of which sequences the next step computes, and in which KV blocks.
//
// The engine's loop:  plan n+1 while step n runs  ->  commit n  ->  plan n+2 ...  (or strictly in turn).
// Pure: no device, lock, clock or thread. Time comes in with plan(). The engine's thread owns it; nothing
// here is thread-safe. One scheduler plans for all ranks of a group.
//
// Policy. A step holds one token of every sequence that decodes, then as many prompt tokens as the budget
// leaves: running prompts first, in order of (priority, submission), then the queue (wait_queue.h). A
// sequence is admitted when the blocks for all its known tokens are there. When blocks run out, the running
// sequence of lowest rank is preempted: it keeps its tokens, loses its blocks and recomputes them later. The
// running sequence of highest rank can always go on, so that the whole never locks.
//
// Deferred commit. plan(n+1) does not know what step n sampled. A sequence that turns out to have ended keeps
// its slice in n+1 (its result is dropped), and its blocks until n+1 is committed.
#pragma once
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sched/options.h"
#include "sched/plan.h"
#include "sched/request.h"
#include "sched/sequence.h"
#include "sched/tenants.h"
#include "sched/wait_queue.h"

namespace trireme::sched {

struct Stats {
  i32 running = 0;
  i32 waiting = 0;             // all of the three below
  i32 waiting_for_room = 0;    // in the queue
  i32 waiting_for_prefix = 0;  // for KV that another sequence computes now
  i32 waiting_preempted = 0;
  i32 kv_blocks_total = 0;
  i32 kv_blocks_used = 0;      // by live sequences
  i32 kv_blocks_cached = 0;    // in the prefix tree (also used by a sequence, or not)
  i64 cache_query_tokens = 0;  // prompt tokens of admitted sequences ...
  i64 cache_hit_tokens = 0;    // ... and those of them that needed no computation
  i64 preemptions = 0;
  i64 computed_tokens = 0;  // positions planned
  i64 finished = 0;
  std::vector<TenantStats> tenants;
};

class Scheduler {
 public:
  // REQUIRES: options from validated().
  explicit Scheduler(const SchedOptions& options);

  // Queued, or: kInvalidArgument for a request that can never be served, kResourceExhausted for a full queue
  // (the message names retry_after()).
  Result<SeqId> submit(Request request);

  // Ends a sequence, wherever it is, with an Output. kStop is for the engine's own stop conditions. An
  // unknown id, or one that has ended, is ignored: the news may have crossed.
  void cancel(SeqId seq, Finish why = Finish::kCancelled);

  // REQUIRES: at most one plan is not committed. An idle plan is neither executed nor committed.
  StepPlan plan(Time now);

  // Ends what has passed its deadline. plan() does so too; this is for when no plan can be made.
  void expire(Time now);

  // What the step brought. REQUIRES: plans are committed in order; result.tokens has one entry for each slice
  // that samples, unless result.error is set. Returns take_outputs().
  std::vector<Output> commit(const StepPlan& plan, const StepResult& result);

  // News since the last call: ends by cancel(), and by deadlines in plan(), have no step of their own.
  std::vector<Output> take_outputs() { return std::exchange(outputs_, {}); }

  bool has_work() const;  // a sequence is alive, or an executor has something to drop
  // When plan() should be called even if nothing else happens.
  std::optional<Time> next_deadline() const;
  // How long until the present queue is likely to be gone: from 1 second to 1 minute.
  Duration retry_after() const;
  Stats stats() const;

  void clear_prefix_cache();
  // CHECKs every count against every other. O(everything).
  void check_integrity() const;

 private:
  struct Rank {
    Rank(const kv::KvOptions& options, std::size_t number) : kv(options), index(number) {}
    kv::KvSpace kv;
    std::size_t index;
    std::vector<Sequence*> running;  // in order of rank, best first
    std::vector<SeqId> departures;
    i32 budget = 0;     // prompt tokens that this step can still take
    i32 promised = 0;   // blocks that running prompts still need
    i32 returning = 0;  // blocks of sequences that are out but in flight
  };
  using Verdict = WaitQueue::Verdict;

  Status check(const Request& request) const;

  // plan()
  void continue_running(Rank& rank, StepPlan& plan);
  void admit(StepPlan& plan);
  Verdict try_admit(Sequence& seq, StepPlan& plan);
  bool must_wait(Sequence& seq, const Rank& rank);
  bool will_deliver(SeqId owner, i32 position) const;
  bool start(Sequence& seq, Rank& rank, RankPlan& out, const kv::PrefixMatch& match);
  void copy_from_fork(const Sequence& seq, kv::PrefixMatch& match) const;
  i32 prefill_chunk(const Rank& rank, const Sequence& seq) const;
  i32 make_room(Rank& rank, Sequence& seq, i32 want);
  void add_slice(RankPlan& out, Sequence& seq, i32 count);
  void preempt(Rank& rank, Sequence& seq);
  i32 choose_rank(const Sequence& seq) const;
  bool has_place(const Rank& rank) const;

  // commit()
  void apply(const SeqSlice& slice, Sequence& seq, std::optional<TokenId> token);
  bool append(Sequence& seq, TokenId token);
  void fail_all(const StepPlan& plan, const Error& error);
  // Emits the last output. The sequence is gone afterwards if nothing in flight uses it.
  void end(Sequence& seq, Finish why, Output last = {});
  void leave_batch(Sequence& seq);
  void let_go(Sequence& seq);

  Sequence* find(SeqId id) const;
  Rank& home(const Sequence& seq) { return ranks_[static_cast<std::size_t>(seq.rank)]; }

  SchedOptions options_;
  std::deque<Rank> ranks_;  // a rank stays where it is
  std::unordered_map<SeqId, std::unique_ptr<Sequence>> sequences_;
  WaitQueue queue_;
  Tenants tenants_;
  std::set<std::pair<Time, SeqId>> timers_;  // deadlines, and queue time limits
  std::vector<Output> outputs_;
  u64 next_id_ = 1;
  u64 issued_ = 0, committed_ = 0;  // steps
  i32 queued_new_ = 0;              // waiting for their first step
  Time now_{};
  std::optional<Time> last_finish_;
  double seconds_per_finish_ = 0;
  Stats totals_;
};

}  // namespace trireme::sched
