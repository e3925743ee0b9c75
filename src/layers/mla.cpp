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
  c.mark("absorb W_UK");
  ASSIGN(View q_latent, c.take({tokens, w.heads, w.latent}));
  const bool made = c.ops.mla_query != nullptr;
  if (made) {
    TRY(c.ops.mla_query({.q = q.reshaped({tokens, w.heads, w.nope + w.rope}),
                         .nope = w.nope,
                         .w_uk = &w.w_uk,
                         .seqs = seqs,
                         .cache = cache,
                         .out = q_latent},
                        c.stream));
  } else {
    TRY(c.ops.head_linear({.x = head_part(w, q, 0, w.nope), .w = &w.w_uk, .out = q_latent}, c.stream));
  }
  ASSIGN(View o_latent, c.take({tokens, w.heads, w.latent}));
  c.mark("attention (MLA, absorbed)");
  TRY(c.ops.mla_absorbed({.q_latent = q_latent,
                          .q_rope = head_part(w, q, w.nope, w.rope),
                          .seqs = seqs,
                          .cache = cache,
                          .scale = w.scale,
                          .out = o_latent,
                          .made = made},
                         c.stream));
  c.mark("absorb W_UV");
  return c.ops.head_linear({.x = o_latent, .w = &w.w_uv, .out = out.reshaped({tokens, w.heads, w.v})},
                           c.stream);
}

Status expanded(const Context& c, const Mla& w, const Batch::Expanded& batch, const KvCacheLayer& cache,
                const View& q, const View& out) {
  const i64 tokens = q.shape.rows();
  c.mark("kv_b");
  ASSIGN(View latent, c.take({batch.context, w.latent}));
  ASSIGN(View k_rope, c.take({batch.context, w.rope}));
  TRY(c.ops.mla_gather(
      {.seqs = batch.seqs, .k_start = batch.k_start, .cache = cache, .latent = latent, .rope = k_rope},
      c.stream));
  Activation latents{.x = latent, .q = {}};
  ASSIGN(View kv, linear(c, latents, w.kv_b));
  MlaExpandedArgs a{.q = q.reshaped({tokens, w.heads, w.nope + w.rope}),
                    .kv = kv.reshaped({batch.context, w.heads, w.nope + w.v}),
                    .k_rope = k_rope,
                    .nope = w.nope,
                    .v = w.v,
                    .seqs = batch.seqs,
                    .k_start = batch.k_start,
                    .scale = w.scale,
                    .out = out.reshaped({tokens, w.heads, w.v}),
                    .fp8 = {.k_scale = w.k_scale, .v_scale = w.v_scale}};
  if (const i64 bytes = w.k_scale > 0 ? c.backend.mla_expanded_room_bytes(a) : 0; bytes > 0) {
    ASSIGN(a.fp8.room, c.arena.take(DType::kU8, {bytes}));
  }
  c.mark("attention (MLA, expanded)");
  return c.ops.mla_expanded(a, c.stream);
}

// Rotates, norms and caches: what the attention itself needs done before. kv_a [tokens, latent + rope].
Status rope_append(const Context& c, const Mla& w, const Batch& batch, const KvCacheLayer& cache,
                   const View& q, const View& kv_a) {
  const i64 tokens = batch.rows();
  const View heads = q.reshaped({tokens, w.heads, w.nope + w.rope});
  if (c.ops.mla_rope_append != nullptr) {
    return c.ops.mla_rope_append({.q = heads,
                                  .kv_a = kv_a,
                                  .norm = w.kv_a_norm,
                                  .eps = w.eps,
                                  .nope = w.nope,
                                  .positions = batch.positions,
                                  .cos_sin = w.cos_sin,
                                  .interleaved = w.interleaved,
                                  .slots = batch.slots,
                                  .cache = cache},
                                 c.stream);
  }
  ASSIGN(View latent, rms_norm(c, columns(kv_a, 0, w.latent), w.kv_a_norm, w.eps));
  const auto rope = [&](const View& x, i64 offset) {
    return c.ops.rope({.x = x,
                       .offset = offset,
                       .dim = w.rope,
                       .positions = batch.positions,
                       .cos_sin = w.cos_sin,
                       .interleaved = w.interleaved},
                      c.stream);
  };
  const View key(kv_a.mutable_data(), kv_a.dtype, {tokens, 1, w.latent + w.rope}, kv_a.row_stride);
  TRY(rope(heads, w.nope));
  TRY(rope(key, w.latent));
  return c.ops.mla_append(
      {.latent = latent, .rope = columns(kv_a, w.latent, w.rope), .slots = batch.slots, .cache = cache},
      c.stream);
}

}  // namespace

Status mla(const Context& c, const Mla& w, const Batch& batch, const KvCacheLayer& kv, Activation& x,
           const View& out) {
  const i64 tokens = batch.rows();
  KvCacheLayer cache = kv;
  cache.latent_scale = w.latent_scale;
  c.mark("q_a, kv_a");
  ASSIGN(View a, linear(c, x, w.a));
  View q;
  if (w.q_lora > 0) {
    c.mark("norm");
    ASSIGN(Activation q_a, add_rms_norm(c, columns(a, 0, w.q_lora), {}, w.q_a_norm, w.eps,
                                        {.x = !w.q_b.fp8_input, .q = w.q_b.fp8_input}));
    c.mark("q_b");
    ASSIGN(q, linear(c, q_a, w.q_b));
  } else {
    c.mark("q_b");
    ASSIGN(q, linear(c, x, w.q_b));
  }
  c.mark("rope, latent norm, append");
  TRY(rope_append(c, w, batch, cache, q, columns(a, w.q_lora, w.latent + w.rope)));

  ASSIGN(View values, c.take({tokens, w.heads * w.v}));
  if (w.absorb_all) {
    TRY(absorbed(c, w, batch.all, cache, q, values));
  } else {
    if (const i64 n = batch.absorbed_rows; n > 0) {
      ArenaScope scope(c.arena);
      TRY(absorbed(c, w, batch.absorbed, cache, q.rows(0, n), values.rows(0, n)));
    }
    for (const auto& part : batch.expanded) {
      ArenaScope scope(c.arena);
      TRY(expanded(c, w, part, cache, q.rows(part.first_row, part.rows),
                   values.rows(part.first_row, part.rows)));
    }
  }
  c.mark("o_proj");
  Activation attended{.x = values, .q = {}};
  return linear_into(c, attended, w.o, out);
}

}  // namespace trireme::layers
