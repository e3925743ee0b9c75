#include "kv/prefix_cache.h"

#include <algorithm>

#include "base/check.h"

namespace trireme::kv {

NodeId PrefixCache::find(const BlockKey& key) const {
  const auto it = by_hash_.find(key.hash);
  if (it == by_hash_.end()) return kNoNode;
  const Node& node = at(it->second);
  const bool same = node.parent == key.parent && node.generated_from == key.generated_from &&
                    (key.parent != kNoNode || node.salt == key.salt) &&
                    std::ranges::equal(node.tokens, key.tokens);
  return same ? it->second : kNoNode;
}

NodeId PrefixCache::announce(const BlockKey& key, u64 owner, i32 priority) {
  if (by_hash_.contains(key.hash)) return kNoNode;
  if (unused_.empty()) {
    unused_.push_back(NodeId(static_cast<i32>(nodes_.size())));
    nodes_.emplace_back();
  }
  const NodeId id = unused_.back();
  unused_.pop_back();
  Node& node = nodes_[static_cast<std::size_t>(id.value)];
  node = Node{.hash = key.hash,
              .parent = key.parent,
              .pins = 1,
              .generated_from = key.generated_from,
              .priority = priority,
              .owner = owner,
              .live = true,
              .salt = std::string(key.parent == kNoNode ? key.salt : std::string_view{}),
              .tokens = std::vector<TokenId>(key.tokens.begin(), key.tokens.end())};
  by_hash_.emplace(key.hash, id);
  if (key.parent != kNoNode) {
    CHECK(at(key.parent).pins > 0);
    ++at(key.parent).children;
  }
  return id;
}

void PrefixCache::fill(NodeId id, BlockId block) {
  Node& node = at(id);
  CHECK(node.block == kNoBlock && node.pins == 1);
  CHECK(node.parent == kNoNode || is_filled(node.parent));
  pool_.retain(block);
  node.block = block;
  ++filled_;
}

void PrefixCache::pin(NodeId id, i32 priority) {
  Node& node = at(id);
  CHECK(node.block != kNoBlock, "only its owner pins a pending node");
  if (node.pins++ == 0) {
    --evictable_;
    if (node.children == 0) leaves_.erase(victim(id));
  }
  node.priority = std::max(node.priority, priority);
}

void PrefixCache::unpin(NodeId id) {
  Node& node = at(id);
  CHECK(node.pins > 0);
  if (--node.pins > 0) return;
  if (node.block == kNoBlock) return erase(id);
  node.last_use = ++clock_;
  ++evictable_;
  if (node.children == 0) leaves_.insert(victim(id));
}

bool PrefixCache::evict_one() {
  if (leaves_.empty()) return false;
  const NodeId id = leaves_.begin()->node;
  leaves_.erase(leaves_.begin());
  --evictable_;
  erase(id);
  return true;
}

void PrefixCache::clear() {
  while (evict_one()) {
  }
}

void PrefixCache::erase(NodeId id) {
  Node& node = at(id);
  CHECK(node.children == 0 && node.pins == 0);
  if (node.block != kNoBlock) {
    pool_.release(node.block);
    --filled_;
  }
  by_hash_.erase(node.hash);
  if (node.parent != kNoNode) {
    Node& parent = at(node.parent);
    if (--parent.children == 0 && parent.pins == 0) leaves_.insert(victim(node.parent));
  }
  node = Node{};
  unused_.push_back(id);
}

PrefixCache::Node& PrefixCache::at(NodeId id) { return const_cast<Node&>(std::as_const(*this).at(id)); }

const PrefixCache::Node& PrefixCache::at(NodeId id) const {
  CHECK(id.value >= 0 && static_cast<std::size_t>(id.value) < nodes_.size());
  const Node& node = nodes_[static_cast<std::size_t>(id.value)];
  CHECK(node.live, "prefix node {} is gone", id.value);
  return node;
}

void PrefixCache::check_integrity() const {
  std::vector<i32> children(nodes_.size(), 0);
  i32 filled = 0, evictable = 0;
  std::size_t live = 0, leaves = 0;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    if (!node.live) continue;
    const NodeId id(static_cast<i32>(i));
    ++live;
    const auto found = by_hash_.find(node.hash);
    CHECK(found != by_hash_.end() && found->second == id);
    if (node.parent != kNoNode) {
      const Node& parent = at(node.parent);
      ++children[static_cast<std::size_t>(node.parent.value)];
      CHECK(node.pins == 0 || parent.pins > 0, "a pinned node has an unpinned parent");
      CHECK(node.block == kNoBlock || parent.block != kNoBlock, "a filled node has a pending parent");
    }
    if (node.block == kNoBlock) {
      CHECK(node.pins == 1, "a pending node has {} pins", node.pins);
      continue;
    }
    ++filled;
    CHECK(pool_.refs(node.block) > node.pins, "block {}: {} references for {} pins and the tree",
          node.block.value, pool_.refs(node.block), node.pins);
    if (node.pins > 0) continue;
    ++evictable;
    const bool leaf = node.children == 0;
    CHECK(leaves_.contains(victim(id)) == leaf);
    leaves += leaf ? 1 : 0;
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) CHECK(children[i] == nodes_[i].children);
  CHECK(filled == filled_ && evictable == evictable_ && leaves == leaves_.size());
  CHECK(live == by_hash_.size() && live + unused_.size() == nodes_.size());
}

}  // namespace trireme::kv
