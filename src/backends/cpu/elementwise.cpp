#include "backends/cpu/elementwise.h"

#include <algorithm>
#include <cstring>

#include "backends/cpu/args_check.h"
#include "backends/cpu/cpu_device.h"

namespace trireme::cpu {
namespace {

// Rows a piece, so that one is worth another thread: some 16 Ki values.
i64 grain(i64 values_a_row) { return std::max<i64>(1, (16 << 10) / std::max<i64>(1, values_a_row)); }

const float* row(const ConstView& v, i64 r) { return static_cast<const float*>(v.row(r)); }
float* row(const View& v, i64 r) { return static_cast<float*>(v.mutable_row(r)); }

void widen(const Kernels& kernels, const void* from, DType t, i64 n, float* out) {
  if (t == DType::kBF16)
    kernels.from_bf16(static_cast<const u16*>(from), n, out);
  else
    std::memcpy(out, from, static_cast<std::size_t>(n) * 4);
}

void store(const Kernels& kernels, const float* from, i64 n, DType t, void* out) {
  if (t == DType::kBF16)
    kernels.to_bf16(from, n, static_cast<u16*>(out));
  else
    std::memcpy(out, from, static_cast<std::size_t>(n) * 4);
}

char* slot(const KvCacheLayer& c, i64 token) {
  return static_cast<char*>(c.data) + token * c.layout.token_bytes();
}

}  // namespace

Status embedding(const EmbeddingArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const i64 n = a.table.shape.cols();
  s.pool.parallel_for(static_cast<i64>(a.ids.size()), grain(n), [&](i64 begin, i64 end, int) {
    for (i64 t = begin; t < end; ++t)
      widen(s.kernels, a.table.row(a.ids[static_cast<std::size_t>(t)]), a.table.dtype, n, row(a.out, t));
  });
  return {};
}

Status rms_norm(const RmsNormArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const i64 n = a.x.shape.cols();
  const float* weight = static_cast<const float*>(a.weight.data);
  if (a.weight.dtype == DType::kBF16) {
    float* const wide = s.shared.take<float>(0, n);
    s.kernels.from_bf16(static_cast<const u16*>(a.weight.data), n, wide);
    weight = wide;
  }
  s.pool.parallel_for(a.x.shape.rows(), grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; ++r) s.kernels.rms_norm(row(a.x, r), weight, a.eps, n, row(a.out, r));
  });
  return {};
}

Status add(const AddArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const i64 n = a.x.shape.cols();
  s.pool.parallel_for(a.x.shape.rows(), grain(n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; ++r) s.kernels.add(row(a.x, r), row(a.y, r), n);
  });
  return {};
}

Status swiglu(const SwigluArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const i64 n = a.out.shape.cols();
  s.pool.parallel_for(a.out.shape.rows(), grain(2 * n), [&](i64 begin, i64 end, int) {
    for (i64 r = begin; r < end; ++r)
      s.kernels.swiglu(row(a.gate_up, r), row(a.gate_up, r) + n, n, row(a.out, r));
  });
  return {};
}

Status rope(const RopeArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const i64 heads = a.x.shape[1], half = a.dim / 2;
  s.pool.parallel_for(a.x.shape[0], grain(heads * a.dim), [&](i64 begin, i64 end, int) {
    for (i64 t = begin; t < end; ++t) {
      const float* const cos = row(a.cos_sin, a.positions[static_cast<std::size_t>(t)]);
      for (i64 h = 0; h < heads; ++h)
        s.kernels.rope({row(a.x, t * heads + h) + a.offset, cos, cos + half, half, a.interleaved});
    }
  });
  return {};
}

Status mla_append(const MlaAppendArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const auto& l = a.cache.layout;
  s.pool.parallel_for(
      static_cast<i64>(a.slots.size()), grain(l.token_elements()), [&](i64 begin, i64 end, int) {
        for (i64 t = begin; t < end; ++t) {
          char* const to = slot(a.cache, a.slots[static_cast<std::size_t>(t)]);
          store(s.kernels, row(a.latent, t), l.latent_dim, l.dtype, to);
          store(s.kernels, row(a.rope, t), l.rope_dim, l.dtype, to + l.latent_dim * size_of(l.dtype));
        }
      });
  return {};
}

Status gqa_append(const GqaAppendArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const auto& l = a.cache.layout;
  const i64 head_bytes = l.head_dim * size_of(l.dtype);
  s.pool.parallel_for(
      static_cast<i64>(a.slots.size()), grain(l.token_elements()), [&](i64 begin, i64 end, int) {
        for (i64 t = begin; t < end; ++t) {
          char* const to = slot(a.cache, a.slots[static_cast<std::size_t>(t)]);
          for (i64 h = 0; h < l.kv_heads; ++h) {
            store(s.kernels, row(a.k, t * l.kv_heads + h), l.head_dim, l.dtype, to + h * head_bytes);
            store(s.kernels, row(a.v, t * l.kv_heads + h), l.head_dim, l.dtype,
                  to + (l.kv_heads + h) * head_bytes);
          }
        }
      });
  return {};
}

Status mla_gather(const MlaGatherArgs& a, Stream& stream) {
  TRY(check(a));
  CpuStream& s = cpu(stream);
  const auto& l = a.cache.layout;
  for (int q = 0; q < a.seqs.seqs(); ++q) {
    s.pool.parallel_for(
        a.seqs.context_len[static_cast<std::size_t>(q)], grain(l.token_elements()),
        [&](i64 begin, i64 end, int) {
          for (i64 t = begin; t < end; ++t) {
            const i64 block =
                a.seqs.block_table[static_cast<std::size_t>(q * a.seqs.max_blocks + t / kKvBlockTokens)];
            const char* const from = slot(a.cache, block * kKvBlockTokens + t % kKvBlockTokens);
            const i64 to = a.k_start[static_cast<std::size_t>(q)] + t;
            widen(s.kernels, from, l.dtype, l.latent_dim, row(a.latent, to));
            widen(s.kernels, from + l.latent_dim * size_of(l.dtype), l.dtype, l.rope_dim, row(a.rope, to));
          }
        });
  }
  return {};
}

}  // namespace trireme::cpu
