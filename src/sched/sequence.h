// What the scheduler knows of one sequence.
#pragma once
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "kv/kv_space.h"
#include "sched/request.h"
#include "sched/tenants.h"

namespace trireme::sched {

enum class Phase {
  kWaiting,  // in the queue: new, or preempted (then it has been announced to an executor)
  kRunning,  // has a place in the batch
  kEnded,    // its last output is out; here only until the steps in flight have let go of its blocks
};

struct Sequence {
  SeqId id;
  Request request;
  std::vector<TokenId> generated;
  i32 priority = 0;       // as the policy sees it
  i32 max_generated = 0;  // max_tokens, and what max_model_len leaves
  TenantId queue_tenant;  // as the policy sees it
  TenantId tenant;

  Phase phase = Phase::kWaiting;
  i32 rank = -1;           // chosen when it is first considered, kept for life
  bool announced = false;  // the executor knows it

  kv::SeqBlocks kv;
  i32 planned = 0;    // positions whose KV is computed once every issued plan has run
  i32 committed = 0;  // positions whose KV is computed
  i32 sampling = 0;   // tokens that issued plans will sample
  i32 in_flight = 0;  // issued plans with a slice of it that are not committed
  u64 last_step = 0;  // of its newest slice
  i32 charged = 0;    // prompt positions its tenant has paid for or need not pay for
  i32 cached_tokens = 0;

  // The sequence whose prefill this one waits for, and the position it waits for.
  SeqId awaited;
  i32 awaited_position = 0;

  i32 prompt_len() const { return static_cast<i32>(request.prompt->size()); }
  i32 known() const { return prompt_len() + static_cast<i32>(generated.size()); }
  // Positions that the next plan could compute: every known token, and those that are being sampled.
  i32 todo() const { return known() + sampling - planned; }
  // Its last token is known or on the way; there is nothing left to plan.
  bool is_fully_planned() const { return static_cast<i32>(generated.size()) + sampling >= max_generated; }
  // A slice may not straddle the end of the prompt.
  i32 slice_limit() const {
    return planned < prompt_len() ? std::min(todo(), prompt_len() - planned) : todo();
  }
  kv::TokenView tokens() const { return {*request.prompt, generated, request.cache_salt}; }

  // Service order among those that run, and reverse order of preemption.
  bool ranks_before(const Sequence& other) const {
    return priority != other.priority ? priority > other.priority : id < other.id;
  }
};

}  // namespace trireme::sched
