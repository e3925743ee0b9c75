// One step of the engine, decided. A plan holds only what changed since the plan before it: the executor
// keeps for every sequence its tokens (the prompt from Arrival, then each token it sampled) and its block
// table, until the sequence is named in `departures`. Plans are executed in the order of their step numbers.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "kv/kv_space.h"
#include "sched/request.h"

namespace trireme::sched {

// A sequence that the executor has not met.
struct Arrival {
  SeqId seq = {};
  std::shared_ptr<const std::vector<TokenId>> prompt;
  std::shared_ptr<const void> payload;  // Request::payload
};

// The next `count` positions of one sequence; at most one slice a sequence and step.
struct SeqSlice {
  SeqId seq = {};
  i32 start = 0;  // position of the first token; the context is [0, start + count)
  i32 count = 0;  // at least 1
  // All positions lie in the prompt (false) or all lie after it (true), never both: the two are computed by
  // different forms of attention, and a recomputation after preemption must give the same bits.
  bool is_generated = false;
  // The slice ends at the last known token: sample the next one and append it to the sequence's tokens.
  // The token at `start` may itself be sampled by the step before this one, which may still run.
  bool needs_sample = false;
  // The block table is cut to its first table_base entries, then new_blocks are appended.
  i32 table_base = 0;
  kv::BlockList new_blocks = {};
};

struct RankPlan {
  std::vector<SeqId> departures;  // first: what the executor keeps for these can go
  std::vector<Arrival> arrivals;
  std::vector<kv::BlockCopy> copies;  // before any slice
  std::vector<SeqSlice> slices;
};

// Owned by the engine; it refers to nothing of the scheduler's.
struct StepPlan {
  u64 step = 0;                 // 1, 2, 3, ... of plans that are not idle
  std::vector<RankPlan> ranks;  // [ranks]; in lockstep, so a rank may have nothing to do while others have

  // Nothing to compute: not executed and not committed (departures still count).
  bool is_idle() const {
    for (const RankPlan& rank : ranks) {
      if (!rank.slices.empty()) return false;
    }
    return true;
  }
};

struct SeqFailure {
  SeqId seq = {};
  Error error = {};
};

struct StepResult {
  // One token for each slice with needs_sample: rank after rank, in the plan's order. Ignored for those in
  // `failed` and for sequences that have ended since.
  std::vector<TokenId> tokens = {};
  std::vector<SeqFailure> failed = {};  // these sequences end with the error, the others go on
  std::optional<Error> error = {};      // the whole step failed: every sequence in it ends with this error
};

}  // namespace trireme::sched
