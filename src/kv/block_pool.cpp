#include "kv/block_pool.h"

#include "base/check.h"

namespace trireme::kv {

BlockPool::BlockPool(i32 total) {
  CHECK(total > 0);
  refs_.resize(static_cast<std::size_t>(total), 0);
  free_.reserve(refs_.size());
  for (i32 i = total - 1; i >= 0; --i) free_.push_back(BlockId(i));
}

Result<BlockList> BlockPool::take(i32 n) {
  CHECK(n > 0);
  if (n > free()) {
    return fail(ErrorCode::kResourceExhausted, "{} KV blocks wanted, {} of {} are free", n, free(), total());
  }
  BlockList taken(free_.end() - n, free_.end());
  free_.resize(free_.size() - static_cast<std::size_t>(n));
  for (BlockId block : taken) refs_[index(block)] = 1;
  return taken;
}

void BlockPool::retain(BlockId block) {
  CHECK(refs(block) > 0, "block {} is free", block.value);
  ++refs_[index(block)];
}

void BlockPool::release(BlockId block) {
  CHECK(refs(block) > 0, "block {} is free", block.value);
  if (--refs_[index(block)] == 0) free_.push_back(block);
}

i32 BlockPool::refs(BlockId block) const { return refs_[index(block)]; }

void BlockPool::check_integrity() const {
  std::vector<bool> seen(refs_.size(), false);
  for (BlockId block : free_) {
    CHECK(!seen[index(block)], "block {} is free twice", block.value);
    CHECK(refs(block) == 0, "block {} is free with {} references", block.value, refs(block));
    seen[index(block)] = true;
  }
  for (std::size_t i = 0; i < refs_.size(); ++i) CHECK(seen[i] || refs_[i] > 0, "block {} is lost", i);
}

std::size_t BlockPool::index(BlockId block) const {
  CHECK(block.value >= 0 && block.value < total(), "block {} of {}", block.value, total());
  return static_cast<std::size_t>(block.value);
}

}  // namespace trireme::kv
