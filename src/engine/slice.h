// New tokens of one sequence, as one forward pass takes them.
#pragma once
#include <span>
#include <vector>

#include "base/types.h"
#include "formats/kv_layout.h"

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

// Where a token's KV goes: physical block * 64 + offset.
inline i32 slot_of(const Slice& s, i64 position) {
  const i64 block = s.blocks[static_cast<std::size_t>(position / kKvBlockTokens)];
  return static_cast<i32>(block * kKvBlockTokens + position % kKvBlockTokens);
}

}  // namespace trireme::engine
