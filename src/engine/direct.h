// A model run by hand, one sequence at a time, without scheduler or batching: for scoring, evaluation and
// benches. One thread.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "engine/runtime.h"
#include "engine/step_runner.h"

namespace trireme::engine {

class DirectRunner {
 public:
  // Room for `sequences` sequences of `max_tokens` tokens each.
  static Result<std::unique_ptr<DirectRunner>> create(const Runtime& runtime, i64 max_tokens,
                                                      int sequences = 1);

  // Forgets what sequence s held.
  void restart(int s = 0) { length_[static_cast<std::size_t>(s)] = 0; }
  // For benches: every sequence goes on as if `tokens` tokens had been computed; their KV becomes random
  // numbers.
  Status pretend(i64 tokens);
  // decode() as recorded graphs from now on, where the device has them.
  Status record(GraphOptions options);
  void set_timeline(Timeline* timeline) { runner_->set_timeline(timeline); }
  i64 length(int s = 0) const { return length_[static_cast<std::size_t>(s)]; }

  // Appends tokens to one sequence, in chunks; hands each chunk's logits ([n, vocab]) to `each` when all are
  // wanted, else returns the last row's only.
  using EachRow = std::function<void(i64 position, std::span<const float> logits)>;
  Result<std::vector<float>> prefill(std::span<const i32> tokens, i64 chunk, const EachRow& each = {},
                                     int s = 0);
  // One more (generated) token for each of the first tokens.size() sequences. Logits stay on the device.
  Result<View> decode(std::span<const i32> tokens);
  Result<std::vector<float>> decode_one(i32 token, int s = 0);
  Stream& stream() { return runner_->stream(); }

 private:
  DirectRunner(const Runtime& runtime, i64 max_tokens, int sequences);
  std::span<const i32> table(int s) const {
    return {tables_.data() + s * blocks_each_, static_cast<std::size_t>(blocks_each_)};
  }
  Result<std::vector<float>> to_host(const View& row);

  const Runtime& runtime_;
  i64 max_tokens_, blocks_each_;
  KvCache cache_;
  std::unique_ptr<StepRunner> runner_;
  std::vector<i64> length_;
  std::vector<i32> tables_;
};

}  // namespace trireme::engine
