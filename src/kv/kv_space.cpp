#include "kv/kv_space.h"

#include <algorithm>

#include "base/check.h"

namespace trireme::kv {

KvSpace::KvSpace(const KvOptions& options)
    : options_(options), hasher_(options.model_id, options.hash_bits), pool_(options.blocks), cache_(pool_) {
  CHECK(options.block_tokens > 0);
}

PrefixMatch KvSpace::look(SeqBlocks& seq, const TokenView& tokens) {
  PrefixMatch match;
  if (!options_.prefix_caching) return match;
  const i32 size = options_.block_tokens;
  NodeId parent = kNoNode;
  for (i32 i = 0; (i + 1) * size <= tokens.size(); ++i) {
    const NodeId node = cache_.find(key(seq, tokens, i, parent));
    if (node == kNoNode) break;
    if (!cache_.is_filled(node)) {
      if (match.owner == 0) match.owner = cache_.owner(node);
      if (cache_.owner(node) != match.owner) break;
      match.promised = (i + 1) * size;
    } else if ((i + 1) * size < tokens.size()) {
      match.nodes.push_back(node);
    } else {
      match.copy_src = cache_.block(node);
      match.copy_node = node;
      match.copy_tokens = size - 1;
    }
    parent = node;
  }
  return match;
}

bool KvSpace::start(SeqBlocks& seq, const PrefixMatch& match, i32 positions, i32 whole, i32 spare, u64 step) {
  CHECK(seq.table.empty() && seq.path.empty());
  for (NodeId node : match.nodes) {
    cache_.pin(node, seq.priority);
    pool_.retain(cache_.block(node));
    seq.path.push_back(node);
    seq.table.push_back(cache_.block(node));
  }
  seq.filled = static_cast<i32>(seq.table.size());
  const Held source{step, match.copy_src, match.copy_node};
  if (match.copy_tokens > 0) {
    pool_.retain(source.block);
    if (source.node != kNoNode) cache_.pin(source.node, seq.priority);
  }
  const i32 need = blocks_for(whole) - static_cast<i32>(seq.table.size());
  const bool fits = available() - need >= spare && grow(seq, positions);
  if (fits && match.copy_tokens > 0) hold(source);
  if (!fits) {
    if (match.copy_tokens > 0) drop(source);
    release(seq);
  }
  return fits;
}

void KvSpace::announce(SeqBlocks& seq, const TokenView& tokens) {
  if (!options_.prefix_caching || !seq.attached) return;
  NodeId parent = seq.path.empty() ? kNoNode : seq.path.back();
  for (i32 i = static_cast<i32>(seq.path.size()); (i + 1) * options_.block_tokens <= tokens.size(); ++i) {
    const BlockKey block = key(seq, tokens, i, parent);
    // One that is there already belongs to someone else, who may go at any time: no claim on it before
    // fill().
    parent = cache_.announce(block, seq.owner, seq.priority);
    if (parent == kNoNode) return;
    seq.path.push_back(parent);
  }
}

bool KvSpace::grow(SeqBlocks& seq, i32 positions) {
  const i32 need = blocks_for(positions) - static_cast<i32>(seq.table.size());
  if (need <= 0) return true;
  if (need > available()) return false;
  while (pool_.free() < need && cache_.evict_one()) {
  }
  const auto taken = pool_.take(need);
  if (!taken) return false;
  seq.table.insert(seq.table.end(), taken->begin(), taken->end());
  return true;
}

i32 KvSpace::reach(const SeqBlocks& seq) const {
  return (static_cast<i32>(seq.table.size()) + available()) * options_.block_tokens;
}

void KvSpace::fill(SeqBlocks& seq, const TokenView& tokens, i32 positions, u64 last_step) {
  for (; (seq.filled + 1) * options_.block_tokens <= positions; ++seq.filled) {
    const i32 i = seq.filled;
    if (!options_.prefix_caching || !seq.attached) continue;
    BlockId& own = seq.table[static_cast<std::size_t>(i)];
    if (static_cast<std::size_t>(i) < seq.path.size()) {
      cache_.fill(seq.path[static_cast<std::size_t>(i)], own);
      continue;
    }
    const BlockKey block = key(seq, tokens, i, seq.path.empty() ? kNoNode : seq.path.back());
    NodeId node = cache_.find(block);
    if (node == kNoNode) {
      node = cache_.announce(block, seq.owner, seq.priority);
      if (node != kNoNode) cache_.fill(node, own);
    } else if (cache_.is_filled(node)) {
      cache_.pin(node, seq.priority);
      pool_.retain(cache_.block(node));
      hold({last_step, own, kNoNode});
      own = cache_.block(node);
      seq.sent = std::min(seq.sent, i);
    } else {
      node = kNoNode;  // its owner is still at work on it
    }
    seq.attached = node != kNoNode;
    if (seq.attached) seq.path.push_back(node);
  }
}

void KvSpace::release(SeqBlocks& seq) {
  for (auto node = seq.path.rbegin(); node != seq.path.rend(); ++node) cache_.unpin(*node);
  for (BlockId block : seq.table) pool_.release(block);
  seq.path.clear();
  seq.table.clear();
  seq.sent = seq.filled = 0;
  seq.attached = true;
}

void KvSpace::settle(u64 step) {
  settled_ = step;
  std::erase_if(held_, [&](const Held& held) {
    if (held.step > step) return false;
    drop(held);
    return true;
  });
}

void KvSpace::hold(const Held& held) {
  if (held.step <= settled_) return drop(held);
  held_.push_back(held);
}

void KvSpace::drop(const Held& held) {
  if (held.node != kNoNode) cache_.unpin(held.node);
  pool_.release(held.block);
}

BlockKey KvSpace::key(SeqBlocks& seq, const TokenView& tokens, i32 index, NodeId parent) {
  const auto size = static_cast<std::size_t>(options_.block_tokens);
  const auto start = static_cast<std::size_t>(index) * size;
  const std::size_t prompt = tokens.prompt.size();
  BlockKey out{.parent = parent, .salt = tokens.salt, .generated_from = options_.block_tokens};
  if (start + size <= prompt) {
    out.tokens = tokens.prompt.subspan(start, size);
  } else if (start >= prompt) {
    out.tokens = tokens.generated.subspan(start - prompt, size);
  } else {
    const auto head = tokens.prompt.subspan(start);
    const auto tail = tokens.generated.first(size - head.size());
    scratch_.assign(head.begin(), head.end());
    scratch_.insert(scratch_.end(), tail.begin(), tail.end());
    out.tokens = scratch_;
  }
  if (!options_.mix_generated && start + size > prompt) {
    out.generated_from = start >= prompt ? 0 : static_cast<i32>(prompt - start);
  }
  CHECK(static_cast<std::size_t>(index) <= seq.chain.size());
  if (static_cast<std::size_t>(index) == seq.chain.size()) {
    const BlockHash before = seq.chain.empty() ? hasher_.root(tokens.salt) : seq.chain.back();
    seq.chain.push_back(hasher_.next(before, out.tokens, out.generated_from));
  }
  out.hash = seq.chain[static_cast<std::size_t>(index)];
  return out;
}

void KvSpace::check_integrity(std::span<const SeqBlocks* const> sequences) const {
  pool_.check_integrity();
  cache_.check_integrity();
  // Every reference is the tree's, a sequence's, or a held block's.
  i64 holders = cache_.filled() + static_cast<i64>(held_.size());
  for (const SeqBlocks* seq : sequences) {
    holders += static_cast<i64>(seq->table.size());
    for (std::size_t i = 0; i < seq->path.size(); ++i) {
      if (!cache_.is_filled(seq->path[i])) continue;
      CHECK(i < seq->table.size() && cache_.block(seq->path[i]) == seq->table[i]);
    }
  }
  i64 references = 0;
  for (i32 i = 0; i < pool_.total(); ++i) references += pool_.refs(BlockId(i));
  CHECK(references == holders, "{} block references for {} holders", references, holders);
}

}  // namespace trireme::kv
