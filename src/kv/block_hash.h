// The identity of a block's content: a 128-bit hash chained over (salt, model id, every token before, its own
// tokens). XXH3 is fast and not secret: the hash only finds a candidate, whoever uses it compares the tokens.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "base/types.h"

namespace trireme::kv {

struct BlockHash {
  u64 low = 0, high = 0;
  bool operator==(const BlockHash&) const = default;
};

class BlockHasher {
 public:
  // bits < 128 keeps only the lowest bits, so that a test meets collisions. REQUIRES: 1 <= bits <= 128.
  explicit BlockHasher(std::string model_id, i32 bits = 128);

  // What the first block of a sequence is chained to. Different salts never share a block.
  BlockHash root(std::string_view salt) const;
  // generated_from: the first of the tokens that the model generated (tokens.size() when none; see
  // KvOptions).
  BlockHash next(const BlockHash& parent, std::span<const TokenId> tokens, i32 generated_from) const;

 private:
  BlockHash cut(u64 low, u64 high) const;

  std::string model_id_;
  i32 bits_;
};

}  // namespace trireme::kv

template <>
struct std::hash<trireme::kv::BlockHash> {
  std::size_t operator()(const trireme::kv::BlockHash& h) const noexcept { return h.low; }
};
