#include "layers/gqa.h"

namespace trireme::layers {

namespace {

Status rope_append(const Context& c, const Gqa& w, const Batch& batch, const KvCacheLayer& cache,
                   const View& q, const View& k, const View& v) {
  if (c.ops.gqa_rope_append != nullptr) {
    return c.ops.gqa_rope_append({.q = q,
                                  .k = k,
                                  .v = v,
                                  .positions = batch.positions,
                                  .cos_sin = w.cos_sin,
                                  .slots = batch.slots,
                                  .cache = cache},
                                 c.stream);
  }
  for (const View& heads : {q, k}) {
    TRY(c.ops.rope({.x = heads,
                    .offset = 0,
                    .dim = w.head_dim,
                    .positions = batch.positions,
                    .cos_sin = w.cos_sin,
                    .interleaved = false},
                   c.stream));
  }
  return c.ops.gqa_append({.k = k, .v = v, .slots = batch.slots, .cache = cache}, c.stream);
}

}  // namespace

Status gqa(const Context& c, const Gqa& w, const Batch& batch, const KvCacheLayer& cache, Activation& x,
           const View& out) {
  const i64 tokens = batch.rows(), d = w.head_dim;
  // Three matrices rather than one: heads of a fused row would be strided by the row, not by the head.
  ASSIGN(View q, c.take({tokens, w.heads, d}));
  ASSIGN(View k, c.take({tokens, w.kv_heads, d}));
  ASSIGN(View v, c.take({tokens, w.kv_heads, d}));
  c.mark("q, k, v");
  TRY(linear_into(c, x, w.q, q.reshaped({tokens, w.q.n})));
  TRY(linear_into(c, x, w.k, k.reshaped({tokens, w.k.n})));
  TRY(linear_into(c, x, w.v, v.reshaped({tokens, w.v.n})));
  c.mark("rope, append");
  TRY(rope_append(c, w, batch, cache, q, k, v));
  c.mark("attention (GQA)");
  ASSIGN(View values, c.take({tokens, w.heads, d}));
  TRY(c.ops.gqa_attention(
      {.q = q, .seqs = batch.all, .cache = cache, .scale = w.scale, .window = w.window, .out = values},
      c.stream));
  c.mark("o_proj");
  Activation attended{.x = values.reshaped({tokens, w.heads * d}), .q = {}};
  return linear_into(c, attended, w.o, out);
}

}  // namespace trireme::layers
