// What the operator chooses, judged once.
#pragma once
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "base/types.h"

namespace trireme::sched {

// Who is served next. All of them serve equals in the order of their submission.
enum class SchedulePolicy {
  kFair,      // highest priority, then the tenant that has been served least
  kPriority,  // highest priority
  kFcfs,      // nothing but the order of submission
};
Result<SchedulePolicy> parse_schedule_policy(
    std::string_view name);  // --schedule-policy: fair, priority, fcfs

struct SchedOptions {
  i32 ranks = 1;
  i32 num_blocks = 0;  // KV blocks of each rank
  i32 block_tokens = 64;
  i32 max_model_len = 4096;           // prompt and answer together
  i32 max_num_batched_tokens = 2048;  // per rank and step
  i32 max_num_seqs = 256;             // running at once, per rank
  i32 chunked_prefill_size = 0;       // most tokens of one prompt in one step; 0: the step's budget
  i32 max_queued_requests = 4096;     // waiting for their first step; one more is refused
  Duration max_queue_time{0};         // longest wait before the first step; 0: for ever
  i32 vocab_size = 0;                 // prompt tokens are held against it; 0: unknown
  SchedulePolicy policy = SchedulePolicy::kFair;
  bool prefix_caching = true;
  bool mix_generated = true;  // see kv::KvOptions; false for --deterministic
  std::string model_id;       // part of every block's identity
  i32 hash_bits = 128;        // fewer only in tests
};

Result<SchedOptions> validated(SchedOptions options);

}  // namespace trireme::sched
