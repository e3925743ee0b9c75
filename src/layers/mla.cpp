#include "layers/mla.h"

namespace trireme::layers {
namespace {

// q [tokens, heads (nope + rope)]: the nope or the rope part of each head, as [tokens, heads, n].
View head_part(const Mla& w, const View& q, i64 begin, i64 n) {
  const i64 width = w.nope + w.rope;
  char* at = static_cast<char*>(q.mutable_data()) + begin * size_of(q.dtype);
  return View(at, q.dtype, {q.shape.rows(), w.heads, n}, width);
}

Status absorbed(const Context& c, const Mla& w, const SeqBatch& seqs, const KvCacheLayer& cache,
                const View& q, const View& out) {
  const i64 tokens = q.shape.rows();
  ASSIGN(View q_latent, c.take({tokens, w.heads, w.latent}));
  TRY(c.ops.head_linear({.x = head_part(w, q, 0, w.nope), .w = w.w_uk, .out = q_latent}, c.stream));
  ASSIGN(View o_latent, c.take({tokens, w.heads, w.latent}));
  TRY(c.ops.mla_absorbed({.q_latent = q_latent,
                          .q_rope = head_part(w, q, w.nope, w.rope),
                          .seqs = seqs,
                          .cache = cache,
                          .scale = w.scale,
                          .out = o_latent},
                         c.stream));
  return c.ops.head_linear({.x = o_latent, .w = w.w_uv, .out = out.reshaped({tokens, w.heads, w.v})},
                           c.stream);
}

Status expanded(const Context& c, const Mla& w, const Batch& batch, const KvCacheLayer& cache, const View& q,
                const View& out) {
  const i64 tokens = q.shape.rows();
  ASSIGN(View latent, c.take({batch.expanded_context, w.latent}));
  ASSIGN(View k_rope, c.take({batch.expanded_context, w.rope}));
  TRY(c.ops.mla_gather({.seqs = batch.expanded,
                        .k_start = batch.expanded_k_start,
                        .cache = cache,
                        .latent = latent,
                        .rope = k_rope},
                       c.stream));
  ASSIGN(View kv, linear(c, latent, w.kv_b));
  return c.ops.mla_expanded({.q = q.reshaped({tokens, w.heads, w.nope + w.rope}),
                             .kv = kv.reshaped({batch.expanded_context, w.heads, w.nope + w.v}),
                             .k_rope = k_rope,
                             .nope = w.nope,
                             .v = w.v,
                             .seqs = batch.expanded,
                             .k_start = batch.expanded_k_start,
                             .scale = w.scale,
                             .out = out.reshaped({tokens, w.heads, w.v})},
                            c.stream);
}

}  // namespace

Result<View> mla(const Context& c, const Mla& w, const Batch& batch, const KvCacheLayer& cache,
                 const ConstView& x) {
  const i64 tokens = batch.rows();
  View q;
  if (w.low_rank_q) {
    ASSIGN(View q_a, linear(c, x, w.q_a));
    ASSIGN(View q_a_normed, rms_norm(c, q_a, w.q_a_norm, w.eps));
    ASSIGN(q, linear(c, q_a_normed, w.q_b));
  } else {
    ASSIGN(q, linear(c, x, w.q_b));
  }
  ASSIGN(View kv_a, linear(c, x, w.kv_a));
  ASSIGN(View latent, rms_norm(c, columns(kv_a, 0, w.latent), w.kv_a_norm, w.eps));

  const auto rope = [&](View heads, i64 offset) {
    return c.ops.rope({.x = heads,
                       .offset = offset,
                       .dim = w.rope,
                       .positions = batch.positions,
                       .cos_sin = w.cos_sin,
                       .interleaved = w.interleaved},
                      c.stream);
  };
  TRY(rope(q.reshaped({tokens, w.heads, w.nope + w.rope}), w.nope));
  TRY(rope(kv_a.reshaped({tokens, 1, w.latent + w.rope}), w.latent));
  TRY(c.ops.mla_append(
      {.latent = latent, .rope = columns(kv_a, w.latent, w.rope), .slots = batch.slots, .cache = cache},
      c.stream));

  ASSIGN(View out, c.take({tokens, w.heads * w.v}));
  if (w.absorb_all) {
    TRY(absorbed(c, w, batch.all, cache, q, out));
  } else {
    const i64 first = batch.absorbed_rows;
    if (first > 0) TRY(absorbed(c, w, batch.absorbed, cache, q.rows(0, first), out.rows(0, first)));
    if (first < tokens)
      TRY(expanded(c, w, batch, cache, q.rows(first, tokens - first), out.rows(first, tokens - first)));
  }
  return linear(c, out, w.o);
}

}  // namespace trireme::layers
