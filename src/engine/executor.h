// Carries out step plans on the device: keeps every sequence's tokens and block table, runs the model,
// samples.
//
// One thread at a time; steps in the order of their numbers.
#pragma once
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/runtime.h"
#include "engine/step_runner.h"
#include "sched/plan.h"
#include "trireme/sampling.h"

namespace trireme::engine {

// What the scheduler hands through to the executor unread.
struct SeqPayload {
  SamplingParams sampling;
  u64 seed = 0;
  std::vector<i32>
      end_tokens;  // not to be chosen before min_tokens: stop tokens, and end of sequence unless ignored
};

struct StepOutcome {
  sched::StepResult result;
  // Beside result.tokens; empty when no sequence of the step wants log-probabilities.
  std::vector<SampledToken> details;
  double seconds = 0;
};

class Executor {
 public:
  Executor(const Runtime& runtime, KvCache cache);

  // Before the first step, on a device that records: room for the largest eager step, and graphs for decode
  // steps.
  Status reserve(i64 workspace_bytes) { return runner_.arena().reserve(workspace_bytes); }
  Status record(const GraphOptions& options) { return runner_.record(options); }
  i64 graphs() const { return runner_.graphs() != nullptr ? runner_.graphs()->count() : 0; }

  StepOutcome execute(const sched::StepPlan& plan);

 private:
  struct Sequence {
    std::shared_ptr<const std::vector<TokenId>> prompt;
    std::shared_ptr<const SeqPayload> payload;
    std::vector<i32> output;  // as sampled
    std::vector<i32> blocks;
  };
  Status run(const sched::RankPlan& plan, StepOutcome& outcome);
  Status sample(const sched::RankPlan& plan, const StepRunner::Output& logits, StepOutcome& outcome);
  static SampleRow row_for(const Sequence& seq);

  const Runtime& runtime_;
  KvCache cache_;
  StepRunner runner_;
  std::unordered_map<sched::SeqId, Sequence> sequences_;
};

}  // namespace trireme::engine
