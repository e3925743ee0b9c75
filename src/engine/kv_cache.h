// The bytes of the KV cache of one rank: block number to memory.
#pragma once
#include <span>
#include <vector>

#include "ops/ops.h"

namespace trireme::engine {

class KvCache {
 public:
  KvCache() = default;
  // kResourceExhausted with the size when the device has not that much. REQUIRES: blocks > 0.
  static Result<KvCache> create(const KvLayout& layout, i64 blocks, Device& device) {
    KvCache cache;
    ASSIGN(cache.memory_, device.allocate(blocks * layout.block_bytes()));
    const i64 layer_bytes = blocks * kKvBlockTokens * layout.token_bytes();
    for (int i = 0; i < layout.layers; ++i) {
      cache.layers_.push_back({layout, static_cast<char*>(cache.memory_.data()) + i * layer_bytes, blocks});
    }
    return cache;
  }
  std::span<const KvCacheLayer> layers() const { return layers_; }
  i64 bytes() const { return memory_.bytes(); }

 private:
  Buffer memory_;
  std::vector<KvCacheLayer> layers_;
};

}  // namespace trireme::engine
