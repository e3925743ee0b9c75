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
  bool absorbed = false;        // MLA: in the absorbed form, see absorbed_from()
  enum class Logits : u8 { kNone, kLast, kAll } logits = Logits::kNone;
};

// The form in which MLA computes a token depends on its position and its prompt's length alone, so that no
// chunking, batch or preemption changes a bit: generated tokens and the prompt's last, incomplete block are
// absorbed, the full blocks before it expanded. That last block is what a request computes whose prefix is
// all in the cache: few tokens over a long context, for which the expanded form would first expand the whole
// context.
constexpr i64 absorbed_from(i64 prompt_tokens) { return prompt_tokens / kKvBlockTokens * kKvBlockTokens; }

// Appends tokens [start, start + tokens.size()) of one sequence, as one slice or, where they cross
// absorbed_from(), two.
void append_slices(std::vector<Slice>& slices, Slice slice, i64 prompt_tokens);

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
