// Scheduler::plan(): deadlines, the running batch, then the queue.
#include <algorithm>

#include "base/check.h"
#include "sched/scheduler.h"

namespace trireme::sched {

namespace {

// In one plan, at most so many waiting sequences are looked at per place in the batch without being admitted.
constexpr i32 kLooksPerPlace = 2;

}  // namespace

StepPlan Scheduler::plan(Time now) {
  CHECK(issued_ - committed_ < 2, "two steps are in flight");
  now_ = now;
  expire(now);
  StepPlan plan;
  plan.step = issued_ + 1;
  plan.ranks.resize(ranks_.size());
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    plan.ranks[i].departures = std::exchange(ranks_[i].departures, {});
    continue_running(ranks_[i], plan);
  }
  admit(plan);
  if (!plan.is_idle()) ++issued_;
  return plan;
}

void Scheduler::expire(Time now) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const SeqId id = timers_.begin()->second;
    timers_.erase(timers_.begin());
    Sequence* seq = find(id);
    if (seq == nullptr || seq->phase == Phase::kEnded) continue;
    if (seq->request.deadline && *seq->request.deadline <= now) {
      end(*seq, Finish::kDeadline,
          {.error = {ErrorCode::kDeadlineExceeded, "the request's deadline has passed"}});
    } else if (!seq->announced) {
      end(*seq, Finish::kDeadline,
          {.error = {ErrorCode::kDeadlineExceeded,
                     "the request waited in the queue for longer than the limit"}});
    }
  }
}

void Scheduler::continue_running(Rank& rank, StepPlan& plan) {
  RankPlan& out = plan.ranks[rank.index];
  out.slices.reserve(rank.running.size() + 8);
  rank.promised = 0;
  rank.budget = options_.max_num_batched_tokens;
  // Decodes come first: their share is set aside before any prompt gets a token.
  for (const Sequence* seq : rank.running) {
    if (!seq->is_fully_planned() && seq->todo() == 1) --rank.budget;
  }
  for (std::size_t i = 0; i < rank.running.size(); ++i) {  // preemption shortens it from the back
    Sequence& seq = *rank.running[i];
    if (seq.is_fully_planned()) continue;
    const bool decodes = seq.todo() == 1;
    const i32 want = decodes ? 1 : prefill_chunk(rank, seq);
    const i32 count = want > 0 ? make_room(rank, seq, want) : 0;
    if (count > 0) {
      if (!decodes) rank.budget -= count;
      add_slice(out, seq, count);
    }
    rank.promised += std::max(0, rank.kv.blocks_for(seq.known()) - static_cast<i32>(seq.kv.table.size()));
  }
}

i32 Scheduler::prefill_chunk(const Rank& rank, const Sequence& seq) const {
  const i32 most = std::min(seq.slice_limit(), rank.budget);
  return options_.chunked_prefill_size > 0 ? std::min(most, options_.chunked_prefill_size) : most;
}

// Blocks for as many of the next `want` positions as there are; if there are none, lower ranks are preempted.
// 0: not in this step. The blocks are on their way back from steps in flight, or higher ranks have them.
i32 Scheduler::make_room(Rank& rank, Sequence& seq, i32 want) {
  for (;;) {
    const i32 count = std::min(want, rank.kv.reach(seq.kv) - seq.planned);
    if (count > 0 && rank.kv.grow(seq.kv, seq.planned + count)) return count;
    Sequence& last = *rank.running.back();
    if (rank.returning > 0 || &last == &seq) return 0;
    preempt(rank, last);
  }
}

void Scheduler::preempt(Rank& rank, Sequence& seq) {
  leave_batch(seq);
  seq.phase = Phase::kWaiting;
  seq.awaited = {};
  seq.planned = seq.committed = 0;
  queue_.push(seq);
  ++totals_.preemptions;
  if (seq.in_flight == 0) let_go(seq);
  CHECK(seq.in_flight == 0 || rank.returning > 0 || seq.kv.table.empty());
}

void Scheduler::add_slice(RankPlan& out, Sequence& seq, i32 count) {
  kv::SeqBlocks& kv = seq.kv;
  SeqSlice slice{.seq = seq.id,
                 .start = seq.planned,
                 .count = count,
                 .is_generated = seq.planned >= seq.prompt_len(),
                 .needs_sample = count == seq.todo(),
                 .table_base = kv.sent};
  slice.new_blocks.assign(kv.table.begin() + kv.sent, kv.table.end());
  kv.sent = static_cast<i32>(kv.table.size());
  seq.planned += count;
  seq.sampling += slice.needs_sample ? 1 : 0;
  ++seq.in_flight;
  seq.last_step = issued_ + 1;
  const i32 paid_up_to = std::min(seq.planned, seq.prompt_len());
  if (paid_up_to > seq.charged) {
    tenants_.charge_prompt(seq.tenant, paid_up_to - seq.charged);
    seq.charged = paid_up_to;
  }
  totals_.computed_tokens += count;
  out.slices.push_back(std::move(slice));
}

void Scheduler::admit(StepPlan& plan) {
  if (queue_.size() == 0) return;
  i32 looks = kLooksPerPlace * options_.max_num_seqs * options_.ranks;
  queue_.visit(tenants_, [&](Sequence& seq) {
    const bool has_any_place = std::ranges::any_of(ranks_, [&](const Rank& r) { return has_place(r); });
    if (!has_any_place || looks-- == 0) return Verdict::kStop;
    return try_admit(seq, plan);
  });
}

bool Scheduler::has_place(const Rank& rank) const {
  return rank.budget > 0 && static_cast<i32>(rank.running.size()) < options_.max_num_seqs;
}

Scheduler::Verdict Scheduler::try_admit(Sequence& seq, StepPlan& plan) {
  if (seq.in_flight > 0) return Verdict::kSkipped;  // preempted, and a step still uses its blocks
  if (!seq.announced && seq.awaited == SeqId{}) seq.rank = choose_rank(seq);
  Rank& rank = home(seq);
  if (!has_place(rank) || must_wait(seq, rank)) return Verdict::kSkipped;
  kv::PrefixMatch match = rank.kv.look(seq.kv, seq.tokens());
  if (match.owner != 0 && will_deliver(SeqId(match.owner), match.promised)) {
    seq.awaited = SeqId(match.owner);
    seq.awaited_position = match.promised;
    return Verdict::kSkipped;
  }
  copy_from_fork(seq, match);
  // No room for the first in line: nobody smaller slips past it, or it would wait for ever.
  return start(seq, rank, plan.ranks[rank.index], match) ? Verdict::kTaken : Verdict::kStop;
}

// Forks stay with their source; others go where most blocks are free.
i32 Scheduler::choose_rank(const Sequence& seq) const {
  const Sequence* source = seq.request.fork_of ? find(*seq.request.fork_of) : nullptr;
  if (source != nullptr && source->rank >= 0) return source->rank;
  const auto worse = [&](const Rank& a, const Rank& b) {
    if (has_place(a) != has_place(b)) return has_place(b);
    return a.kv.available() - a.promised < b.kv.available() - b.promised;
  };
  return static_cast<i32>(std::ranges::max_element(ranks_, worse) - ranks_.begin());
}

bool Scheduler::must_wait(Sequence& seq, const Rank& rank) {
  if (seq.awaited != SeqId{} && will_deliver(seq.awaited, seq.awaited_position)) return true;
  seq.awaited = {};
  if (!seq.request.fork_of || seq.announced) return false;
  const SeqId source = *seq.request.fork_of;
  if (!will_deliver(source, seq.prompt_len()) || &rank != &home(*find(source))) return false;
  seq.awaited = source;
  seq.awaited_position = seq.prompt_len();
  return true;
}

// The owner has not computed that far, and is at it. That wait is bounded: a running owner is served before
// anything in the queue, so that whatever the waiter could use, the owner gets first; if it loses its place,
// the waiter goes on by itself.
bool Scheduler::will_deliver(SeqId owner, i32 position) const {
  const Sequence* seq = find(owner);
  return seq != nullptr && seq->phase == Phase::kRunning && seq->committed < position;
}

// The prompt of a fork usually ends inside a block, where its source goes on to write its own answer: the
// fork copies what is prompt, and computes the prompt's last token again for logits of its own.
void Scheduler::copy_from_fork(const Sequence& seq, kv::PrefixMatch& match) const {
  const Sequence* source = seq.request.fork_of && !seq.announced ? find(*seq.request.fork_of) : nullptr;
  if (source == nullptr || source->phase != Phase::kRunning || source->rank != seq.rank) return;
  CHECK(source->committed >= seq.prompt_len(), "sequence {} did not wait for its source", seq.id.value);
  if (match.copy_tokens > 0) return;
  const auto blocks = match.nodes.size();
  const i32 tail = seq.prompt_len() - 1 - static_cast<i32>(blocks) * options_.block_tokens;
  if (tail < 1 || tail >= options_.block_tokens) return;
  match.copy_src = source->kv.table[blocks];
  match.copy_tokens = tail;
}

bool Scheduler::start(Sequence& seq, Rank& rank, RankPlan& out, const kv::PrefixMatch& match) {
  const auto shared = match.nodes.size();
  const i32 begin = static_cast<i32>(shared) * options_.block_tokens + match.copy_tokens;
  seq.planned = begin;
  const i32 count = prefill_chunk(rank, seq);
  // The batch keeps what its prompts were promised, and one block in a hundred to grow into.
  const i32 spare = rank.running.empty() ? 0 : rank.promised + rank.kv.total() / 100;
  if (!rank.kv.start(seq.kv, match, begin + count, seq.known(), spare, issued_ + 1)) {
    seq.planned = 0;
    if (match.copy_tokens == 0) return false;
    // A copy needs its source and its target at once: in a pool that tight, compute the block again.
    return start(seq, rank, out, {.nodes = match.nodes});
  }
  if (match.copy_tokens > 0) out.copies.push_back({match.copy_src, seq.kv.table[shared], match.copy_tokens});
  rank.kv.announce(seq.kv, seq.tokens());
  seq.phase = Phase::kRunning;
  seq.committed = begin;
  seq.charged = std::max(seq.charged, std::min(begin, seq.prompt_len()));
  if (!seq.announced) {
    seq.announced = true;
    --queued_new_;
    out.arrivals.push_back({seq.id, seq.request.prompt, seq.request.payload});
    seq.cached_tokens = begin;
    totals_.cache_query_tokens += seq.prompt_len();
    totals_.cache_hit_tokens += begin;
  }
  const auto at = std::ranges::lower_bound(
      rank.running, &seq, [](const Sequence* a, const Sequence* b) { return a->ranks_before(*b); });
  rank.running.insert(at, &seq);
  rank.promised += rank.kv.blocks_for(seq.known()) - static_cast<i32>(seq.kv.table.size());
  rank.budget -= count;
  add_slice(out, seq, count);
  return true;
}

}  // namespace trireme::sched
