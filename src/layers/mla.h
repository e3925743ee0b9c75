// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434), in its two equal forms.
//
// *Expanded* (full blocks of prompts): the cached latents of the whole context go through kv_b_proj, then
// ordinary attention. Fewest operations per query when there are many queries.
// *Absorbed* (generated tokens, and the end of a prompt): W_UK moves to the query and W_UV to the output, and
// attention runs on the latents themselves. Fewest bytes per query.
//
// The two round differently. Who builds the batch chooses between them by a token's position alone.
#pragma once
#include "layers/linear.h"

namespace trireme::layers {

struct Mla {
  int heads = 0;
  i64 nope = 128, rope = 64, v = 128, latent = 512;
  float eps = 1e-6f, scale = 1;
  bool interleaved = true;
  i64 q_lora = 0;           // 0 without a low-rank step: q_b is then q_proj
  LinearWeight a;           // [q_lora + latent + rope, hidden]: q_a, then kv_a
  ConstView q_a_norm;       // [q_lora]
  ConstView kv_a_norm;      // [latent]
  float latent_scale = 1;   // of an FP8 cache
  LinearWeight q_b;         // [heads (nope + rope), q_lora or hidden]
  LinearWeight kv_b;        // [heads (nope + v), latent]
  GroupWeight w_uk, w_uv;   // [heads] of [latent, nope] and [v, latent]
  LinearWeight o;           // [hidden, heads v]
  ConstView cos_sin;        // [positions, rope] float32
  bool absorb_all = false;  // every token in the absorbed form
  float k_scale = 0;        // of FP8 products in the expanded form (MlaExpandedArgs); 0: none are permitted
  float v_scale = 0;
  Want wants() const { return {.x = !a.fp8_input, .q = a.fp8_input}; }
};

// x [tokens, hidden], after the norm; writes this step's latents into the cache first. `out` [tokens,
// hidden].
Status mla(const Context& c, const Mla& w, const Batch& batch, const KvCacheLayer& kv, Activation& x,
           const View& out);

}  // namespace trireme::layers
