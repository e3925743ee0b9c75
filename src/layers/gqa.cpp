#include "layers/gqa.h"

namespace trireme::layers {

Result<View> gqa(const Context& c, const Gqa& w, const Batch& batch, const KvCacheLayer& cache,
                 const ConstView& x) {
  const i64 tokens = batch.rows(), d = w.head_dim;
  // Three matrices rather than one: heads of a fused row would be strided by the row, not by the head.
  ASSIGN(View q, c.take({tokens, w.heads, d}));
  ASSIGN(View k, c.take({tokens, w.kv_heads, d}));
  ASSIGN(View v, c.take({tokens, w.kv_heads, d}));
  const auto project = [&](const LinearWeight& weight, const View& out) {
    return c.ops.linear({.x = x, .w = &weight, .out = out.reshaped({tokens, weight.n})}, c.stream);
  };
  TRY(project(w.q, q));
  TRY(project(w.k, k));
  TRY(project(w.v, v));
  const auto rope = [&](View heads) {
    return c.ops.rope({.x = heads,
                       .offset = 0,
                       .dim = d,
                       .positions = batch.positions,
                       .cos_sin = w.cos_sin,
                       .interleaved = false},
                      c.stream);
  };
  TRY(rope(q));
  TRY(rope(k));
  TRY(c.ops.gqa_append({.k = k, .v = v, .slots = batch.slots, .cache = cache}, c.stream));
  ASSIGN(View out, c.take({tokens, w.heads, d}));
  TRY(c.ops.gqa_attention(
      {.q = q, .seqs = batch.all, .cache = cache, .scale = w.scale, .window = w.window, .out = out},
      c.stream));
  return linear(c, out.reshaped({tokens, w.heads * d}), w.o);
}

}  // namespace trireme::layers
