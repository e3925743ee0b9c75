// The prefix tree: which block holds which tokens after which tokens. A node is one full block. It is born
// pending (a running sequence announced that it will compute it) or filled, and a filled node holds one
// reference to its block, so that the block outlives the sequence that computed it. A sequence pins every
// node on its path; nodes that nobody pins can be evicted, leaves first.
//
// Invariants: a pinned node's parent is pinned; a filled node's parent is filled; a pending node has exactly
// one pin, its owner's, and no block. Not thread-safe: the thread that owns the scheduler owns it.
#pragma once
#include <compare>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/types.h"
#include "kv/block_hash.h"
#include "kv/block_pool.h"

namespace trireme::kv {

using NodeId = Id<struct NodeTag, i32>;
inline constexpr NodeId kNoNode{-1};

// Everything that makes a block's content what it is. The hash finds a candidate; the rest is compared.
struct BlockKey {
  BlockHash hash = {};
  NodeId parent = kNoNode;     // kNoNode: the first block of a sequence
  std::string_view salt = {};  // compared for first blocks; the others have a parent that was compared
  std::span<const TokenId> tokens = {};  // [block_tokens]
  i32 generated_from = 0;
};

class PrefixCache {
 public:
  // pool outlives the cache.
  explicit PrefixCache(BlockPool& pool) : pool_(pool) {}

  // kNoNode when it is not there, or when another content has the same hash.
  NodeId find(const BlockKey& key) const;
  bool is_filled(NodeId node) const { return at(node).block != kNoBlock; }
  BlockId block(NodeId node) const { return at(node).block; }  // kNoBlock while pending
  u64 owner(NodeId node) const { return at(node).owner; }      // the sequence that announced it

  // A pending node pinned by its owner; kNoNode when another content has this hash (then nothing changes).
  // REQUIRES: find(key) == kNoNode, and the parent is pinned.
  NodeId announce(const BlockKey& key, u64 owner, i32 priority);
  // The pending node is computed: from now on others may use the block. Takes a reference of its own.
  void fill(NodeId node, BlockId block);

  // priority: of the request; a node keeps the highest of its users, and low ones are evicted first.
  void pin(NodeId node, i32 priority);
  // Unpin the deepest node of a path first. A pending node goes with its owner's pin.
  void unpin(NodeId node);

  // Drops the unpinned leaf with the lowest priority, of those the one unused for longest. False: there is
  // none.
  bool evict_one();
  // Drops every node that nobody pins.
  void clear();

  i32 evictable() const { return evictable_; }  // filled nodes that nobody pins
  i32 filled() const { return filled_; }

  // CHECKs the invariants above. O(nodes).
  void check_integrity() const;

 private:
  struct Node {
    BlockHash hash = {};
    NodeId parent = kNoNode;
    BlockId block = kNoBlock;
    i32 children = 0;
    i32 pins = 0;
    i32 generated_from = 0;
    i32 priority = 0;
    u64 owner = 0;
    u64 last_use = 0;
    bool live = false;
    std::string salt = {};
    std::vector<TokenId> tokens = {};
  };
  struct Victim {  // eviction order
    i32 priority;
    u64 last_use;
    NodeId node;
    auto operator<=>(const Victim&) const = default;
  };

  Node& at(NodeId node);
  const Node& at(NodeId node) const;
  Victim victim(NodeId node) const { return {at(node).priority, at(node).last_use, node}; }
  void erase(NodeId node);

  BlockPool& pool_;
  std::vector<Node> nodes_;
  std::vector<NodeId> unused_;
  std::unordered_map<BlockHash, NodeId> by_hash_;
  std::set<Victim> leaves_;  // filled, unpinned, no children
  i32 filled_ = 0;
  i32 evictable_ = 0;
  u64 clock_ = 0;
};

}  // namespace trireme::kv
