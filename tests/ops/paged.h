// Paged caches and batches of sequences over them. What no context covers is NaN.
#pragma once
#include "rig.h"

namespace trireme::ops_test {

inline constexpr float kLatentScale = 0x1p-4f;  // of FP8 caches

// One layer of a cache, on the host, in any of its formats.
struct Cache {
  KvLayout layout;
  i64 blocks = 0;
  std::vector<char> bytes;

  Cache(const KvLayout& l, i64 n)
      : layout(l), blocks(n), bytes(static_cast<std::size_t>(n * kKvBlockTokens * l.token_bytes()), '\xff') {}
  void set_token(i64 slot, const std::vector<float>& values);  // token_elements() of them
  float get(i64 slot, i64 i) const;
  Cache as(DType t) const;  // what this one holds, in another format
  KvCacheLayer on(Rig& r) const { return {layout, r.put_bytes(bytes), blocks, kLatentScale}; }
  // What a cache like this one holds now on r.
  Cache back(Rig& r, const KvCacheLayer& l) const;
};

inline KvLayout mla_layout(DType t, int latent, int rope) {
  KvLayout l;
  l.dtype = t;
  l.latent_dim = latent;
  l.rope_dim = rope;
  return l;
}
inline KvLayout gqa_layout(DType t, int kv_heads, int dim) {
  KvLayout l;
  l.kind = KvLayout::Kind::kGqa;
  l.dtype = t;
  l.kv_heads = kv_heads;
  l.head_dim = dim;
  return l;
}

// The formats of MLA caches that a backend is tested with; GQA has no FP8.
inline std::vector<DType> cache_types(Rig& r, const KvLayout& l) {
  std::vector<DType> types = {DType::kBF16};
  if (r.act() == DType::kF32) types.push_back(DType::kF32);
  const bool fp8 = l.kind == KvLayout::Kind::kMla && l.latent_dim % 8 == 0 && l.rope_dim % 2 == 0;
  if (fp8 && r.act() == DType::kBF16) types.push_back(DType::kF8E4M3);
  return types;
}

// Sequences of new tokens and contexts, whose blocks lie scattered over a cache.
struct Ragged {
  std::vector<i32> q_start = {0}, context, table, k_start = {0};
  i64 max_blocks = 0, blocks = 0, max_tokens = 0, max_context = 0;

  Ragged(Rng& rng, const std::vector<std::pair<i32, i32>>& fresh_and_context);
  int seqs() const { return static_cast<int>(context.size()); }
  i64 tokens() const { return q_start.back(); }
  i64 slot(int seq, i64 position) const {
    return table[static_cast<std::size_t>(seq * max_blocks + position / kKvBlockTokens)] * kKvBlockTokens +
           position % kKvBlockTokens;
  }
  Cache filled(Rng& rng, const KvLayout& l) const;  // random values in every token of a context
  // On r, with the backend's plan for these heads where it makes one.
  SeqBatch on(Rig& r, const KvLayout& l, int heads) const;
};

}  // namespace trireme::ops_test
