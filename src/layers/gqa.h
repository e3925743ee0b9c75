// Grouped-query attention (arXiv:2305.13245) with rotary embeddings, as in Llama and Mixtral.
#pragma once
#include "layers/linear.h"

namespace trireme::layers {

struct Gqa {
  int heads = 0, kv_heads = 0;
  i64 head_dim = 0, window = 0;
  float scale = 1;
  LinearWeight q, k, v;  // [heads head_dim, hidden], twice [kv_heads head_dim, hidden]
  LinearWeight o;        // [hidden, heads head_dim]
  ConstView cos_sin;     // [positions, head_dim] float32
  Want wants() const { return {.x = !q.fp8_input, .q = q.fp8_input}; }
};

// x [tokens, hidden], after the norm; writes this step's keys and values into the cache first. `out` [tokens,
// hidden].
Status gqa(const Context& c, const Gqa& w, const Batch& batch, const KvCacheLayer& cache, Activation& x,
           const View& out);

}  // namespace trireme::layers
