#include <cmath>

#include "backends/cpu/args_check.h"
#include "backends/cpu/oracle.h"
#include "backends/cpu/oracle_math.h"

namespace trireme::cpu::oracle {
namespace {

const float* row(const ConstView& v, i64 r) { return static_cast<const float*>(v.row(r)); }
float* row(const View& v, i64 r) { return static_cast<float*>(v.mutable_row(r)); }

// Element i of row r of a float32 or BF16 tensor.
float element(const ConstView& v, i64 r, i64 i) {
  return v.dtype == DType::kBF16 ? value(static_cast<const BF16*>(v.row(r)), i) : row(v, r)[i];
}

// Element i of the cached token in `slot`.
float cached(const KvCacheLayer& c, i64 slot, i64 i) {
  const i64 at = slot * c.layout.token_elements() + i;
  return c.layout.dtype == DType::kBF16 ? value(static_cast<const BF16*>(c.data), at)
                                        : static_cast<const float*>(c.data)[at];
}
void cache_value(const KvCacheLayer& c, i64 slot, i64 i, float x) {
  const i64 at = slot * c.layout.token_elements() + i;
  if (c.layout.dtype == DType::kBF16)
    static_cast<BF16*>(c.data)[at] = BF16(x);
  else
    static_cast<float*>(c.data)[at] = x;
}

}  // namespace

Status embedding(const EmbeddingArgs& a, Stream&) {
  TRY(check(a));
  for (i64 t = 0; t < a.out.shape.rows(); ++t)
    for (i64 i = 0; i < a.out.shape.cols(); ++i)
      row(a.out, t)[i] = element(a.table, a.ids[static_cast<std::size_t>(t)], i);
  return {};
}

Status rms_norm(const RmsNormArgs& a, Stream&) {
  TRY(check(a));
  const i64 n = a.x.shape.cols();
  for (i64 r = 0; r < a.x.shape.rows(); ++r) {
    const float mean_square = dot(row(a.x, r), row(a.x, r), n) / static_cast<float>(n);
    const float scale = 1.0f / std::sqrt(mean_square + a.eps);
    for (i64 i = 0; i < n; ++i) row(a.out, r)[i] = row(a.x, r)[i] * scale * element(a.weight, 0, i);
  }
  return {};
}

Status add(const AddArgs& a, Stream&) {
  TRY(check(a));
  for (i64 r = 0; r < a.x.shape.rows(); ++r)
    for (i64 i = 0; i < a.x.shape.cols(); ++i) row(a.x, r)[i] += row(a.y, r)[i];
  return {};
}

Status swiglu(const SwigluArgs& a, Stream&) {
  TRY(check(a));
  const i64 n = a.out.shape.cols();
  for (i64 r = 0; r < a.out.shape.rows(); ++r) {
    const float* const gate = row(a.gate_up, r);
    for (i64 i = 0; i < n; ++i) row(a.out, r)[i] = gate[i] / (1.0f + std::exp(-gate[i])) * gate[n + i];
  }
  return {};
}

Status rope(const RopeArgs& a, Stream&) {
  TRY(check(a));
  const i64 heads = a.x.shape[1], half = a.dim / 2;
  for (i64 t = 0; t < a.x.shape[0]; ++t) {
    const float* const cos = row(a.cos_sin, a.positions[static_cast<std::size_t>(t)]);
    const float* const sin = cos + half;
    for (i64 h = 0; h < heads; ++h) {
      float* const x = row(a.x, t * heads + h) + a.offset;
      for (i64 i = 0; i < half; ++i) {
        const i64 first = a.interleaved ? 2 * i : i, second = a.interleaved ? 2 * i + 1 : i + half;
        const float u = x[first], v = x[second];
        x[first] = u * cos[i] - v * sin[i];
        x[second] = u * sin[i] + v * cos[i];
      }
    }
  }
  return {};
}

Status mla_append(const MlaAppendArgs& a, Stream&) {
  TRY(check(a));
  const i64 latent = a.cache.layout.latent_dim;
  for (i64 t = 0; t < a.latent.shape.rows(); ++t) {
    const i64 slot = a.slots[static_cast<std::size_t>(t)];
    for (i64 i = 0; i < latent; ++i) cache_value(a.cache, slot, i, row(a.latent, t)[i]);
    for (i64 i = 0; i < a.cache.layout.rope_dim; ++i)
      cache_value(a.cache, slot, latent + i, row(a.rope, t)[i]);
  }
  return {};
}

Status gqa_append(const GqaAppendArgs& a, Stream&) {
  TRY(check(a));
  const i64 heads = a.cache.layout.kv_heads, dim = a.cache.layout.head_dim;
  for (i64 t = 0; t < a.k.shape[0]; ++t) {
    const i64 slot = a.slots[static_cast<std::size_t>(t)];
    for (i64 h = 0; h < heads; ++h) {
      for (i64 i = 0; i < dim; ++i) {
        cache_value(a.cache, slot, h * dim + i, row(a.k, t * heads + h)[i]);
        cache_value(a.cache, slot, (heads + h) * dim + i, row(a.v, t * heads + h)[i]);
      }
    }
  }
  return {};
}

Status mla_gather(const MlaGatherArgs& a, Stream&) {
  TRY(check(a));
  const i64 latent = a.cache.layout.latent_dim;
  for (i64 s = 0; s < a.seqs.seqs(); ++s) {
    for (i64 t = 0; t < a.seqs.context_len[static_cast<std::size_t>(s)]; ++t) {
      const i64 block =
          a.seqs.block_table[static_cast<std::size_t>(s * a.seqs.max_blocks + t / kKvBlockTokens)];
      const i64 slot = block * kKvBlockTokens + t % kKvBlockTokens,
                to = a.k_start[static_cast<std::size_t>(s)] + t;
      for (i64 i = 0; i < latent; ++i) row(a.latent, to)[i] = cached(a.cache, slot, i);
      for (i64 i = 0; i < a.cache.layout.rope_dim; ++i)
        row(a.rope, to)[i] = cached(a.cache, slot, latent + i);
    }
  }
  return {};
}

}  // namespace trireme::cpu::oracle
