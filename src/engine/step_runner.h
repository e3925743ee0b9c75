// One forward pass over slices of sequences: lays out the batch, runs the model, hands back logits.
//
// One thread at a time. The logits stay valid until the next run.
#pragma once
#include <span>
#include <vector>

#include "engine/kv_cache.h"
#include "models/model.h"

namespace trireme::engine {

struct Slice {
  std::span<const i32> tokens;  // the new ones
  i64 start = 0;                // position of the first
  std::span<const i32> blocks;  // block table, at least ceil((start + tokens) / 64) entries
  bool generated = false;       // tokens of the answer rather than of the prompt
  enum class Logits : u8 { kNone, kLast, kAll } logits = Logits::kNone;
};

class StepRunner {
 public:
  StepRunner(const models::Model& model, Backend& backend, std::span<const KvCacheLayer> cache);

  struct Output {
    View logits;                 // [wanted rows, vocab] float32 on the device; empty when none are wanted
    std::vector<i64> first_row;  // of each slice's logits, in the order the slices were given; -1: none
  };
  Result<Output> run(std::span<const Slice> slices);
  Status copy_blocks(std::span<const CopyBlock> copies);

  Stream& stream() { return *stream_; }
  Arena& arena() { return arena_; }

 private:
  const models::Model& model_;
  Backend& backend_;
  std::span<const KvCacheLayer> cache_;
  std::unique_ptr<Stream> stream_;
  Arena arena_;
  std::vector<i32> host_;  // every index array of a step, one after the other
};

}  // namespace trireme::engine
