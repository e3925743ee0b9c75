#include <vector>

#include "backends/cpu/args_check.h"
#include "backends/cpu/cpu_device.h"
#include "backends/cpu/oracle.h"
#include "backends/cpu/oracle_math.h"

namespace trireme::cpu::oracle {
namespace {

const float* row(const ConstView& v, i64 r) { return static_cast<const float*>(v.row(r)); }

// softmax(scale q K^T) V for one query row of every (new token, head), in float32. For token `t` of sequence
// `s`, score(t, head, s, key) is one dot product and add_value(weight, s, key, head, out) adds a weighted
// value of dv.
template <class Score, class AddValue>
void attend(CpuStream& stream, const SeqBatch& seqs, i64 heads, float scale, i64 window, i64 dv, View out,
            Score score, AddValue add_value) {
  std::vector<int> seq_of;
  for (int s = 0; s < seqs.seqs(); ++s)
    for (i32 t = seqs.q_start[s]; t < seqs.q_start[s + 1]; ++t) seq_of.push_back(s);
  stream.pool.parallel_for(static_cast<i64>(seq_of.size()) * heads, 1, [&](i64 begin, i64 end, int) {
    std::vector<float> weights;
    for (i64 r = begin; r < end; ++r) {
      const i64 t = r / heads, head = r % heads;
      const int s = seq_of[static_cast<std::size_t>(t)];
      const i64 last = seqs.context_len[s] - (seqs.q_start[s + 1] - t);  // this token's own position
      const i64 first = window > 0 ? std::max<i64>(0, last - window + 1) : 0;
      weights.clear();
      for (i64 key = first; key <= last; ++key) weights.push_back(scale * score(t, head, s, key));
      softmax(weights.data(), static_cast<i64>(weights.size()));
      auto* const to = static_cast<float*>(out.mutable_row(r));
      std::fill(to, to + dv, 0.0f);
      for (i64 key = first; key <= last; ++key)
        add_value(weights[static_cast<std::size_t>(key - first)], s, key, head, to);
    }
  });
}

template <class T>
const T* cached(const KvCacheLayer& c, const SeqBatch& seqs, int s, i64 key) {
  const i64 block = seqs.block_table[static_cast<std::size_t>(s * seqs.max_blocks + key / kKvBlockTokens)];
  return static_cast<const T*>(c.data) +
         (block * kKvBlockTokens + key % kKvBlockTokens) * c.layout.token_elements();
}

template <class T>
void absorbed(const MlaAbsorbedArgs& a, CpuStream& stream) {
  const i64 heads = a.q_latent.shape[1], latent = a.cache.layout.latent_dim, rope = a.cache.layout.rope_dim;
  attend(
      stream, a.seqs, heads, a.scale, 0, latent, a.out,
      [&](i64 t, i64 head, int s, i64 key) {
        const T* const k = cached<T>(a.cache, a.seqs, s, key);
        return dot(row(a.q_latent, t * heads + head), k, latent) +
               dot(row(a.q_rope, t * heads + head), k + latent, rope);
      },
      [&](float w, int s, i64 key, i64, float* out) {
        axpy(w, cached<T>(a.cache, a.seqs, s, key), latent, out);
      });
}

template <class T>
void gqa(const GqaAttentionArgs& a, CpuStream& stream) {
  const i64 heads = a.q.shape[1], kv_heads = a.cache.layout.kv_heads, dim = a.cache.layout.head_dim;
  const i64 group = heads / kv_heads;
  attend(
      stream, a.seqs, heads, a.scale, a.window, dim, a.out,
      [&](i64 t, i64 head, int s, i64 key) {
        return dot(row(a.q, t * heads + head), cached<T>(a.cache, a.seqs, s, key) + head / group * dim, dim);
      },
      [&](float w, int s, i64 key, i64 head, float* out) {
        axpy(w, cached<T>(a.cache, a.seqs, s, key) + (kv_heads + head / group) * dim, dim, out);
      });
}

}  // namespace

Status mla_absorbed(const MlaAbsorbedArgs& a, Stream& stream) {
  TRY(check(a));
  if (a.cache.layout.dtype == DType::kBF16)
    absorbed<BF16>(a, cpu(stream));
  else
    absorbed<float>(a, cpu(stream));
  return {};
}

Status gqa_attention(const GqaAttentionArgs& a, Stream& stream) {
  TRY(check(a));
  if (a.cache.layout.dtype == DType::kBF16)
    gqa<BF16>(a, cpu(stream));
  else
    gqa<float>(a, cpu(stream));
  return {};
}

Status mla_expanded(const MlaExpandedArgs& a, Stream& stream) {
  TRY(check(a));
  const i64 heads = a.q.shape[1], rope = a.q.shape[2] - a.nope;
  const auto kv = [&](int s, i64 key, i64 head) {
    return row(a.kv, (a.k_start[static_cast<std::size_t>(s)] + key) * heads + head);
  };
  attend(
      cpu(stream), a.seqs, heads, a.scale, 0, a.v, a.out,
      [&](i64 t, i64 head, int s, i64 key) {
        const float* const q = row(a.q, t * heads + head);
        return dot(q, kv(s, key, head), a.nope) +
               dot(q + a.nope, row(a.k_rope, a.k_start[static_cast<std::size_t>(s)] + key), rope);
      },
      [&](float w, int s, i64 key, i64 head, float* out) { axpy(w, kv(s, key, head) + a.nope, a.v, out); });
  return {};
}

}  // namespace trireme::cpu::oracle
