// Requests in, outputs out: submit, cancel, commit. Planning is in scheduler_plan.cpp.
#include "sched/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace trireme::sched {

Scheduler::Scheduler(const SchedOptions& options) : options_(options) {
  const kv::KvOptions kv{.blocks = options.num_blocks,
                         .block_tokens = options.block_tokens,
                         .model_id = options.model_id,
                         .prefix_caching = options.prefix_caching,
                         .mix_generated = options.mix_generated,
                         .hash_bits = options.hash_bits};
  for (i32 i = 0; i < options.ranks; ++i) ranks_.emplace_back(kv, ranks_.size());
}

Status Scheduler::check(const Request& r) const {
  if (!r.prompt || r.prompt->empty()) return invalid("the prompt has no tokens");
  const auto prompt = static_cast<i64>(r.prompt->size());
  if (prompt >= options_.max_model_len) {
    return invalid(
        "the prompt has {} tokens; the model's limit of {} leaves no room for an answer: shorten it", prompt,
        options_.max_model_len);
  }
  for (TokenId token : *r.prompt) {
    if (token < 0 || (options_.vocab_size > 0 && token >= options_.vocab_size)) {
      return invalid("prompt token {} is not in the vocabulary of {}", token, options_.vocab_size);
    }
  }
  if (r.max_tokens < 1) return invalid("max_tokens is {}: ask for at least 1", r.max_tokens);
  if (r.min_tokens < 0 || r.min_tokens > r.max_tokens) {
    return invalid("min_tokens is {}: it must lie in 0..max_tokens ({})", r.min_tokens, r.max_tokens);
  }
  const i64 answer = std::min<i64>(r.max_tokens, options_.max_model_len - prompt);
  const i64 blocks = ceil_div(prompt + answer - 1, options_.block_tokens);
  if (blocks > options_.num_blocks) {
    return invalid(
        "a prompt of {} tokens with max_tokens {} needs {} KV blocks of {} tokens and the cache has {}: "
        "lower max_tokens, shorten the prompt or give the KV cache more memory",
        prompt, answer, blocks, options_.block_tokens, options_.num_blocks);
  }
  if (const Sequence* source = r.fork_of ? find(*r.fork_of) : nullptr) {
    if (source->request.prompt != r.prompt && *source->request.prompt != *r.prompt) {
      return invalid("a fork of sequence {} must have the same prompt", r.fork_of->value);
    }
  }
  return {};
}

Result<SeqId> Scheduler::submit(Request request) {
  TRY(check(request));
  if (queued_new_ >= options_.max_queued_requests) {
    return fail(ErrorCode::kResourceExhausted,
                "{} requests are queued, which is the limit: retry in {:.0f} s", queued_new_,
                seconds(retry_after()));
  }
  auto seq = std::make_unique<Sequence>();
  seq->id = SeqId(next_id_++);
  seq->request = std::move(request);
  const Request& r = seq->request;
  const bool has_priority = options_.policy != SchedulePolicy::kFcfs;
  seq->priority = has_priority ? r.priority : 0;
  seq->tenant = tenants_.join(r.tenant);
  seq->queue_tenant = options_.policy == SchedulePolicy::kFair ? seq->tenant : kEveryone;
  seq->max_generated = std::min(r.max_tokens, options_.max_model_len - seq->prompt_len());
  seq->kv.owner = seq->id.value;
  seq->kv.priority = seq->priority;
  if (r.deadline) timers_.emplace(*r.deadline, seq->id);
  if (options_.max_queue_time > Duration::zero())
    timers_.emplace(r.arrival + options_.max_queue_time, seq->id);
  queue_.push(*seq);
  ++queued_new_;
  const SeqId id = seq->id;
  sequences_.emplace(id, std::move(seq));
  return id;
}

void Scheduler::cancel(SeqId id, Finish why) {
  CHECK(why != Finish::kNone);
  Sequence* seq = find(id);
  if (seq != nullptr && seq->phase != Phase::kEnded) end(*seq, why);
}

std::vector<Output> Scheduler::commit(const StepPlan& plan, const StepResult& result) {
  CHECK(plan.step == committed_ + 1 && plan.step <= issued_, "step {} after step {}", plan.step, committed_);
  committed_ = plan.step;
  for (Rank& rank : ranks_) rank.kv.settle(plan.step);
  if (result.error) {
    fail_all(plan, *result.error);
    return take_outputs();
  }
  for (const SeqFailure& failure : result.failed) {
    Sequence* seq = find(failure.seq);
    if (seq != nullptr && seq->phase != Phase::kEnded) end(*seq, Finish::kError, {.error = failure.error});
  }
  std::size_t sampled = 0;
  for (const RankPlan& rank : plan.ranks) {
    for (const SeqSlice& slice : rank.slices) {
      std::optional<TokenId> token;
      if (slice.needs_sample) {
        CHECK(sampled < result.tokens.size(), "step {} sampled too few tokens", plan.step);
        token = result.tokens[sampled++];
      }
      apply(slice, *find(slice.seq), token);
    }
  }
  CHECK(sampled == result.tokens.size(), "step {} sampled too many tokens", plan.step);
  return take_outputs();
}

void Scheduler::fail_all(const StepPlan& plan, const Error& error) {
  for (const RankPlan& rank : plan.ranks) {
    for (const SeqSlice& slice : rank.slices) {
      Sequence& seq = *find(slice.seq);
      --seq.in_flight;
      seq.sampling -= slice.needs_sample ? 1 : 0;
      if (seq.phase != Phase::kEnded) {
        end(seq, Finish::kError, {.error = error});
      } else if (seq.in_flight == 0) {
        let_go(seq);
      }
    }
  }
}

void Scheduler::apply(const SeqSlice& slice, Sequence& seq, std::optional<TokenId> token) {
  --seq.in_flight;
  seq.sampling -= token ? 1 : 0;
  if (seq.phase == Phase::kRunning) {
    seq.committed = slice.start + slice.count;
    home(seq).kv.fill(seq.kv, seq.tokens(), seq.committed, seq.last_step);
  }
  if (seq.phase != Phase::kEnded && token && !append(seq, *token)) return;
  if (seq.phase != Phase::kRunning && seq.in_flight == 0) let_go(seq);
}

// False: that was its last token.
bool Scheduler::append(Sequence& seq, TokenId token) {
  CHECK(token >= 0, "sequence {}: sampled token {}", seq.id.value, token);
  const Request& r = seq.request;
  seq.generated.push_back(token);
  tenants_.charge_generated(seq.tenant, 1);
  Output output{.seq = seq.id, .tokens = {token}, .cached_tokens = seq.cached_tokens};
  const auto count = static_cast<i32>(seq.generated.size());
  const auto is_in = [token](const std::vector<TokenId>& ids) {
    return std::ranges::find(ids, token) != ids.end();
  };
  if (count >= r.min_tokens && (is_in(r.stop_token_ids) || (!r.ignore_eos && is_in(r.eos_token_ids)))) {
    output.matched_stop = token;
    end(seq, Finish::kStop, std::move(output));
    return false;
  }
  if (count >= seq.max_generated) {
    end(seq, Finish::kLength, std::move(output));
    return false;
  }
  outputs_.push_back(std::move(output));
  return true;
}

void Scheduler::end(Sequence& seq, Finish why, Output last) {
  if (seq.phase == Phase::kRunning) {
    leave_batch(seq);
  } else {
    queue_.erase(seq);
    queued_new_ -= seq.announced ? 0 : 1;
  }
  seq.phase = Phase::kEnded;
  last.seq = seq.id;
  last.finish = why;
  last.cached_tokens = seq.cached_tokens;
  outputs_.push_back(std::move(last));
  tenants_.leave(seq.tenant);
  if (seq.request.deadline) timers_.erase({*seq.request.deadline, seq.id});
  timers_.erase({seq.request.arrival + options_.max_queue_time, seq.id});
  if (last_finish_) seconds_per_finish_ += 0.1 * (seconds(now_ - *last_finish_) - seconds_per_finish_);
  last_finish_ = now_;
  ++totals_.finished;
  if (seq.in_flight == 0) let_go(seq);
}

void Scheduler::leave_batch(Sequence& seq) {
  Rank& rank = home(seq);
  const auto at = std::ranges::lower_bound(
      rank.running, &seq, [](const Sequence* a, const Sequence* b) { return a->ranks_before(*b); });
  CHECK(at != rank.running.end() && *at == &seq);
  rank.running.erase(at);
  rank.returning += static_cast<i32>(seq.kv.table.size());
}

// Nothing in flight uses its blocks any more.
void Scheduler::let_go(Sequence& seq) {
  if (seq.rank >= 0) {
    Rank& rank = home(seq);
    rank.returning -= static_cast<i32>(seq.kv.table.size());
    rank.kv.release(seq.kv);
    if (seq.phase == Phase::kEnded && seq.announced) rank.departures.push_back(seq.id);
  }
  if (seq.phase == Phase::kEnded) sequences_.erase(seq.id);
}

Sequence* Scheduler::find(SeqId id) const {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

bool Scheduler::has_work() const {
  return !sequences_.empty() ||
         std::ranges::any_of(ranks_, [](const Rank& r) { return !r.departures.empty(); });
}

std::optional<Time> Scheduler::next_deadline() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->first;
}

Duration Scheduler::retry_after() const {
  return from_seconds(std::clamp(seconds_per_finish_ * queued_new_, 1.0, 60.0));
}

Stats Scheduler::stats() const {
  Stats s = totals_;
  for (const Rank& rank : ranks_) {
    s.running += static_cast<i32>(rank.running.size());
    s.kv_blocks_total += rank.kv.total();
    s.kv_blocks_used += rank.kv.total() - rank.kv.available();
    s.kv_blocks_cached += rank.kv.cached();
  }
  for (const auto& [id, seq] : sequences_) {
    if (seq->phase != Phase::kWaiting) continue;
    ++s.waiting;
    ++(seq->awaited != SeqId{} ? s.waiting_for_prefix
       : seq->announced        ? s.waiting_preempted
                               : s.waiting_for_room);
  }
  s.tenants = tenants_.stats();
  return s;
}

void Scheduler::clear_prefix_cache() {
  for (Rank& rank : ranks_) rank.kv.clear_cache();
}

void Scheduler::check_integrity() const {
  i32 waiting = 0, waiting_new = 0;
  std::vector<std::vector<const kv::SeqBlocks*>> blocks(ranks_.size());
  std::vector<i32> returning(ranks_.size(), 0);
  std::vector<std::size_t> running(ranks_.size(), 0);
  for (const auto& [id, seq] : sequences_) {
    const bool waits = seq->phase == Phase::kWaiting;
    waiting += waits ? 1 : 0;
    waiting_new += waits && !seq->announced ? 1 : 0;
    CHECK(seq->phase != Phase::kEnded || seq->in_flight > 0, "sequence {} has ended and stays", id.value);
    CHECK(seq->sampling >= 0 && seq->sampling <= seq->in_flight);
    CHECK(seq->committed <= seq->planned || !waits);
    if (seq->rank < 0) continue;
    const auto rank = static_cast<std::size_t>(seq->rank);
    blocks[rank].push_back(&seq->kv);
    if (seq->phase != Phase::kRunning) {
      CHECK(seq->in_flight > 0 || seq->kv.table.empty(), "sequence {} is out and keeps blocks", id.value);
      returning[rank] += static_cast<i32>(seq->kv.table.size());
    } else {
      ++running[rank];
    }
  }
  CHECK(waiting == queue_.size() && waiting_new == queued_new_);
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const Rank& rank = ranks_[i];
    CHECK(rank.returning == returning[i] && rank.running.size() == running[i]);
    CHECK(std::ranges::is_sorted(rank.running,
                                 [](const Sequence* a, const Sequence* b) { return a->ranks_before(*b); }));
    rank.kv.check_integrity(blocks[i]);
  }
}

}  // namespace trireme::sched
