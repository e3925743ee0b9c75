#include "sched/options.h"

namespace trireme::sched {

Result<SchedulePolicy> parse_schedule_policy(std::string_view name) {
  if (name == "fair") return SchedulePolicy::kFair;
  if (name == "priority") return SchedulePolicy::kPriority;
  if (name == "fcfs") return SchedulePolicy::kFcfs;
  return invalid("--schedule-policy: '{}' is none of fair, priority, fcfs", name);
}

Result<SchedOptions> validated(SchedOptions o) {
  if (o.ranks < 1 || o.ranks > 4096) return invalid("ranks: {} is not in 1..4096", o.ranks);
  if (o.block_tokens < 1 || o.block_tokens > 1024) {
    return invalid("KV block of {} tokens: choose 1..1024 (64 is what the kernels expect)", o.block_tokens);
  }
  if (o.num_blocks < 1) return invalid("no KV block fits: give the KV cache more memory");
  if (i64{o.num_blocks} * o.block_tokens > (i64{1} << 31) - 1) {
    return invalid("{} KV blocks of {} tokens are more than 2^31 positions", o.num_blocks, o.block_tokens);
  }
  if (o.max_model_len < 2) return invalid("--max-model-len: {} is below 2", o.max_model_len);
  if (o.max_num_seqs < 1) return invalid("--max-num-seqs: {} is below 1", o.max_num_seqs);
  if (o.max_num_batched_tokens < o.max_num_seqs) {
    return invalid(
        "--max-num-batched-tokens {} is below --max-num-seqs {}: a step must hold one token of each",
        o.max_num_batched_tokens, o.max_num_seqs);
  }
  if (o.chunked_prefill_size < 0)
    return invalid("--chunked-prefill-size: {} is negative", o.chunked_prefill_size);
  if (o.max_queued_requests < 1)
    return invalid("--max-queued-requests: {} is below 1", o.max_queued_requests);
  if (o.max_queue_time < Duration::zero()) return invalid("the queue time limit is negative");
  if (o.vocab_size < 0) return invalid("vocabulary size {} is negative", o.vocab_size);
  if (o.hash_bits < 1 || o.hash_bits > 128) return invalid("hash bits: {} is not in 1..128", o.hash_bits);
  return o;
}

}  // namespace trireme::sched
