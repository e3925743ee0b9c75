// The KV memory of one rank as a sequence meets it: its block table grows, shares what others computed,
// offers what it computed, and goes. Pool and prefix tree together. Bookkeeping only. Not thread-safe: the
// thread that owns the scheduler owns it.
#pragma once
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/block_hash.h"
#include "kv/block_pool.h"
#include "kv/prefix_cache.h"

namespace trireme::kv {

struct KvOptions {
  i32 blocks = 0;
  i32 block_tokens = 64;
  std::string model_id = {};
  bool prefix_caching = true;
  // Prompt tokens and generated tokens are computed by two forms of attention that round differently. true:
  // their blocks are interchangeable, so that the next turn of a chat finds the answer of the last one.
  // false: a block is shared only between positions computed by the same form, and a cache hit never changes
  // a bit.
  bool mix_generated = true;
  i32 hash_bits = 128;  // fewer only in tests
};

// The tokens of a sequence, prompt first. A view: valid while its owner does not change them.
struct TokenView {
  std::span<const TokenId> prompt, generated;
  std::string_view salt;
  i32 size() const { return static_cast<i32>(prompt.size() + generated.size()); }
};

// What one sequence holds. Position p lives in table[p / block_tokens] at offset p % block_tokens.
struct SeqBlocks {
  u64 owner = 0;  // the sequence's number
  i32 priority = 0;
  BlockList table;
  i32 sent = 0;                  // leading entries of the table that the executor knows
  std::vector<NodeId> path;      // the tree nodes of its first blocks: filled ones, then those it announced
  std::vector<BlockHash> chain;  // of the full blocks of the tokens seen so far; outlives a release
  i32 filled = 0;                // full blocks that are computed
  bool attached = true;          // false: the tree could not take one of its blocks, so none after it either
};

// Copy the first `tokens` positions of src over those of dst, before anything else in the step.
struct BlockCopy {
  BlockId src, dst;
  i32 tokens = 0;
};

// What the tree can do for a sequence that starts.
struct PrefixMatch {
  std::vector<NodeId> nodes = {};  // filled blocks to use as they are
  // A block to copy the next copy_tokens positions from (they end inside a block, which is never shared).
  BlockId copy_src = kNoBlock;
  NodeId copy_node = kNoNode;
  i32 copy_tokens = 0;
  // Someone is computing more of it right now: `owner` will have filled it up to position `promised`.
  u64 owner = 0;
  i32 promised = 0;
};

class KvSpace {
 public:
  explicit KvSpace(const KvOptions& options);
  KvSpace(const KvSpace&) = delete;  // the tree refers to the pool
  KvSpace& operator=(const KvSpace&) = delete;

  // How much of the tokens is there or coming. The last token is never matched: it must be computed for its
  // logits.
  PrefixMatch look(SeqBlocks& seq, const TokenView& tokens);

  // Uses the match and takes blocks up to position `positions`; a copy's source is kept until step is
  // settled. False, and nothing changed, when after taking blocks for all of `whole` positions fewer than
  // `spare` would be left. REQUIRES: seq holds nothing.
  bool start(SeqBlocks& seq, const PrefixMatch& match, i32 positions, i32 whole, i32 spare, u64 step);

  // Tells the tree which full blocks of the known tokens this sequence is about to compute, so that others
  // wait for them instead of computing them as well.
  void announce(SeqBlocks& seq, const TokenView& tokens);

  // Blocks up to position `positions`, or nothing changed and false.
  bool grow(SeqBlocks& seq, i32 positions);
  // How far grow() can reach now.
  i32 reach(const SeqBlocks& seq) const;

  // The first `positions` positions are computed: full blocks are shared from now on. Where the tree already
  // has the same content, the sequence moves over to that block; its own is kept until last_step is settled.
  void fill(SeqBlocks& seq, const TokenView& tokens, i32 positions, u64 last_step);

  // Gives everything back. What was filled stays in the tree until it is evicted.
  void release(SeqBlocks& seq);

  // Steps up to this one are over: what only they needed is released.
  void settle(u64 step);

  void clear_cache() { cache_.clear(); }
  i32 blocks_for(i32 positions) const { return static_cast<i32>(ceil_div(positions, options_.block_tokens)); }
  i32 available() const { return pool_.free() + cache_.evictable(); }
  i32 total() const { return pool_.total(); }
  i32 free() const { return pool_.free(); }
  i32 cached() const { return cache_.filled(); }

  // CHECKs that every reference is accounted for by the tree, by a held block or by one of the sequences.
  void check_integrity(std::span<const SeqBlocks* const> sequences) const;

 private:
  struct Held {
    u64 step;
    BlockId block;
    NodeId node;
  };
  BlockKey key(SeqBlocks& seq, const TokenView& tokens, i32 index, NodeId parent);
  void hold(const Held& held);  // takes over the reference and the pin
  void drop(const Held& held);

  KvOptions options_;
  BlockHasher hasher_;
  BlockPool pool_;
  PrefixCache cache_;
  std::vector<Held> held_;
  u64 settled_ = 0;
  std::vector<TokenId> scratch_;  // a block whose tokens straddle prompt and answer
};

}  // namespace trireme::kv
