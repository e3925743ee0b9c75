// The KV blocks of one rank: who may use which, counted. It knows block numbers, never their bytes.
// Not thread-safe: the thread that owns the scheduler owns it.
#pragma once
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace trireme::kv {

using BlockId = Id<struct BlockTag, i32>;  // in [0, total)
using BlockList = std::vector<BlockId>;
inline constexpr BlockId kNoBlock{-1};

class BlockPool {
 public:
  // REQUIRES: total > 0.
  explicit BlockPool(i32 total);

  // All n blocks, each with one reference, or none. REQUIRES: n > 0.
  Result<BlockList> take(i32 n);
  // One reference more, or less. A block is free again when its last reference goes. REQUIRES: refs(block) >
  // 0.
  void retain(BlockId block);
  void release(BlockId block);

  i32 refs(BlockId block) const;
  i32 total() const { return static_cast<i32>(refs_.size()); }
  i32 free() const { return static_cast<i32>(free_.size()); }

  // CHECKs that the free list and the reference counts tell the same story. O(total).
  void check_integrity() const;

 private:
  std::size_t index(BlockId block) const;

  std::vector<i32> refs_;
  BlockList free_;  // a stack: the block that was released last is the warmest
};

}  // namespace trireme::kv
