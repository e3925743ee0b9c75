// One forward pass over slices of sequences: lays out the batch, runs the model, hands back logits.
//
// One thread at a time. The logits stay valid until the next run.
#pragma once
#include <span>
#include <vector>

#include "engine/decode_graphs.h"
#include "engine/kv_cache.h"
#include "engine/slice.h"
#include "models/model.h"

namespace trireme::engine {

// 16K tokens of DeepSeek-V3 are 1 GiB once expanded.
inline constexpr i64 kExpandedContext = 16384;

// Where tokens are computed apart, a step of more would run on another kernel, with other bits.
inline constexpr i64 kMostTokensApart = 4096;

class StepRunner {
 public:
  // expanded_context: cached tokens that MLA expands at once, beyond one sequence's own; bounds the
  // workspace.
  StepRunner(const models::Model& model, Backend& backend, std::span<const KvCacheLayer> cache,
             i64 expanded_context = kExpandedContext);

  // Records decode steps of up to options.max_seqs sequences; run() then uses them where they fit. Nothing
  // happens on devices without graphs.
  Status record(const GraphOptions& options);
  const DecodeGraphs* graphs() const { return graphs_.get(); }
  // Notes the parts of steps that are not recorded, and where a recorded step begins ("graph") and ends.
  void set_timeline(Timeline* timeline) { timeline_ = timeline; }

  struct Output {
    View logits;                 // [wanted rows, vocab] float32 on the device; empty when none are wanted
    std::vector<i64> first_row;  // of each slice's logits, in the order the slices were given; -1: none
  };
  Result<Output> run(std::span<const Slice> slices);
  Status copy_blocks(std::span<const CopyBlock> copies);

  Stream& stream() { return *stream_; }
  Arena& arena() { return arena_; }

 private:
  Result<Output> run_whole(std::span<const Slice> slices);

  const models::Model& model_;
  Backend& backend_;
  std::span<const KvCacheLayer> cache_;
  const i64 expanded_context_;
  std::unique_ptr<Stream> stream_;
  Arena arena_;
  std::unique_ptr<DecodeGraphs> graphs_;
  Timeline* timeline_ = nullptr;
  std::vector<i32> host_;  // every index array of a step, one after the other
};

}  // namespace trireme::engine
