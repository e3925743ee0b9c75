#include "backends/cpu/attention.h"

#include "backends/cpu/args_check.h"
#include "backends/cpu/attention_core.h"

namespace trireme::cpu {
namespace {

const char* token_row(const KvCacheLayer& cache, const SeqBatch& seqs, int seq, i64 block) {
  const i64 physical = seqs.block_table[static_cast<std::size_t>(seq * seqs.max_blocks + block)];
  return static_cast<const char*>(cache.data) + physical * kKvBlockTokens * cache.layout.token_bytes();
}

// The latents are keys (with the rotated part) and values at once.
struct MlaCacheSource final : AttentionSource {
  const MlaAbsorbedArgs& a;
  PanelMaker make;
  MlaCacheSource(const MlaAbsorbedArgs& args, PanelMaker maker) : a(args), make(maker) {}
  i64 heads() const { return a.q_latent.shape[1]; }

  void query(i64 token, i64 head, char* out) const override {
    const i64 row = token * heads() + head, latent = a.cache.layout.latent_dim;
    make.query(static_cast<const float*>(a.q_latent.row(row)), latent, out);
    make.query(static_cast<const float*>(a.q_rope.row(row)), a.cache.layout.rope_dim,
               out + latent * make.query_bytes());
  }
  void keys(int seq, i64, i64 block, int tokens, u32* panel, Scratch&) const override {
    const i64 elements = a.cache.layout.token_elements();
    make.keys(token_row(a.cache, a.seqs, seq, block), elements, tokens, elements, panel);
  }
  void values(int seq, i64, i64 block, int tokens, u32* panels, Scratch&) const override {
    make.values(token_row(a.cache, a.seqs, seq, block), a.cache.layout.token_elements(), tokens,
                a.cache.layout.latent_dim, panels);
  }
};

struct GqaCacheSource final : AttentionSource {
  const GqaAttentionArgs& a;
  PanelMaker make;
  GqaCacheSource(const GqaAttentionArgs& args, PanelMaker maker) : a(args), make(maker) {}
  i64 head_bytes() const { return a.cache.layout.head_dim * size_of(a.cache.layout.dtype); }

  void query(i64 token, i64 head, char* out) const override {
    make.query(static_cast<const float*>(a.q.row(token * a.q.shape[1] + head)), a.cache.layout.head_dim, out);
  }
  void keys(int seq, i64 kv_head, i64 block, int tokens, u32* panel, Scratch&) const override {
    make.keys(token_row(a.cache, a.seqs, seq, block) + kv_head * head_bytes(),
              a.cache.layout.token_elements(), tokens, a.cache.layout.head_dim, panel);
  }
  void values(int seq, i64 kv_head, i64 block, int tokens, u32* panels, Scratch&) const override {
    make.values(token_row(a.cache, a.seqs, seq, block) + (a.cache.layout.kv_heads + kv_head) * head_bytes(),
                a.cache.layout.token_elements(), tokens, a.cache.layout.head_dim, panels);
  }
};

// Keys and values are float32 activations, rounded to BF16 a block at a time.
struct ExpandedSource final : AttentionSource {
  const MlaExpandedArgs& a;
  PanelMaker make;
  ExpandedSource(const MlaExpandedArgs& args, PanelMaker maker) : a(args), make(maker) {}
  i64 heads() const { return a.q.shape[1]; }
  i64 rope() const { return a.q.shape[2] - a.nope; }

  // Columns [from, from + cols) of 64 rows of kv, narrowed; [tokens][cols].
  const u16* narrow(const ConstView& v, i64 first_row, i64 step, i64 from, i64 cols, int tokens,
                    Scratch& scratch) const {
    u16* const out = scratch.take<u16>(kSlotRows, kPanel * cols);
    for (int t = 0; t < tokens; ++t)
      make.kernels.to_bf16(static_cast<const float*>(v.row(first_row + t * step)) + from, cols,
                           out + t * cols);
    return out;
  }
  void query(i64 token, i64 head, char* out) const override {
    make.query(static_cast<const float*>(a.q.row(token * heads() + head)), a.nope + rope(), out);
  }
  void keys(int seq, i64 head, i64 block, int tokens, u32* panel, Scratch& scratch) const override {
    const i64 token = a.k_start[static_cast<std::size_t>(seq)] + block * kPanel;
    make.keys(narrow(a.kv, token * heads() + head, heads(), 0, a.nope, tokens, scratch), a.nope, tokens,
              a.nope, panel);
    if (rope() > 0)
      make.keys(narrow(a.k_rope, token, 1, 0, rope(), tokens, scratch), rope(), tokens, rope(),
                panel + a.nope / 2 * kPanel);
  }
  void values(int seq, i64 head, i64 block, int tokens, u32* panels, Scratch& scratch) const override {
    const i64 token = a.k_start[static_cast<std::size_t>(seq)] + block * kPanel;
    make.values(narrow(a.kv, token * heads() + head, heads(), a.nope, a.v, tokens, scratch), a.v, tokens, a.v,
                panels);
  }
};

}  // namespace

Status mla_absorbed(const MlaAbsorbedArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const auto& l = a.cache.layout;
  const bool bf16 = l.dtype == DType::kBF16;
  attend(s, MlaCacheSource(a, {s.kernels, bf16}),
         {.heads = a.q_latent.shape[1],
          .kv_heads = 1,
          .dk = l.token_elements(),
          .dv = l.latent_dim,
          .bf16 = bf16,
          .scale = a.scale},
         a.seqs, a.out);
  return {};
}

Status mla_expanded(const MlaExpandedArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const i64 heads = a.q.shape[1];
  attend(s, ExpandedSource(a, {s.kernels, true}),
         {.heads = heads, .kv_heads = heads, .dk = a.q.shape[2], .dv = a.v, .bf16 = true, .scale = a.scale},
         a.seqs, a.out);
  return {};
}

Status gqa_attention(const GqaAttentionArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const auto& l = a.cache.layout;
  const bool bf16 = l.dtype == DType::kBF16;
  attend(s, GqaCacheSource(a, {s.kernels, bf16}),
         {.heads = a.q.shape[1],
          .kv_heads = l.kv_heads,
          .dk = l.head_dim,
          .dv = l.head_dim,
          .bf16 = bf16,
          .scale = a.scale,
          .window = a.window},
         a.seqs, a.out);
  return {};
}

}  // namespace trireme::cpu
