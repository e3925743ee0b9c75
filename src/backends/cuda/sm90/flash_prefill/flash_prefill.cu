#include "backends/cuda/sm90/flash_prefill/flash_prefill.h"

#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/flash_prefill/kernel.cuh"

namespace trireme::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

template <class S>
cudaError_t launch_shape(const flash::Params& p, const TensorMapSpec (&specs)[3], cudaStream_t stream) {
  CUtensorMap maps[3];
  for (int i = 0; i < 3; ++i)
    if (const cudaError_t e = encode_tensor_map(specs[i], &maps[i]); e != cudaSuccess) return e;
  constexpr int kBytes = static_cast<int>(sizeof(flash::Smem<S>));
  static_assert(kBytes <= 227 * 1024);
  // Every time: it holds for one device, and a process may have several.
  const cudaError_t allowed =
      cudaFuncSetAttribute(flash::prefill<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (allowed != cudaSuccess) return allowed;
  const std::int64_t work = flash::tiles_bound(p.seqs) * p.order.heads;
  const auto ctas = static_cast<unsigned>(work < p.seqs.sms ? work : p.seqs.sms);
  if (ctas == 0) return cudaSuccess;
  if (const cudaError_t e = cudaMemsetAsync(p.seqs.counter, 0, sizeof(unsigned), stream); e != cudaSuccess)
    return e;
  flash::prefill<S><<<ctas, flash::kThreads, kBytes, stream>>>(p, maps[0], maps[1], maps[2]);
  return cudaGetLastError();
}

// [rows, heads * head_stride] as boxes of 64 columns.
TensorMapSpec heads_map(const void* base, std::int64_t rows, std::int64_t row_stride, std::int64_t columns,
                        std::uint32_t box_rows) {
  return matrix_map(base, MapType::bf16, static_cast<std::uint64_t>(rows),
                    static_cast<std::uint64_t>(columns), static_cast<std::uint64_t>(2 * row_stride), box_rows,
                    flash::kChunk, MapSwizzle::b128);
}

}  // namespace

cudaError_t flash_mla(const FlashMlaArgs& a, cudaStream_t stream) {
  if (a.seqs.tokens == 0) return cudaSuccess;
  flash::Params p;
  p.seqs = a.seqs;
  p.k_start = a.k_start;
  p.out_stride = a.out_stride;
  p.out = static_cast<__nv_bfloat16*>(a.out);
  p.scale_log2 = a.scale * kLog2E;
  p.order = {.heads = a.heads, .group = 1, .key_bytes = 512};
  p.q_stride = static_cast<int>(a.q_stride);
  p.k_stride = static_cast<int>(a.kv_stride);
  p.v_first = 128;
  const std::int64_t q_row = a.heads * a.q_stride, kv_row = a.heads * a.kv_stride;
  return launch_shape<flash::Shape<128, 64, 128, false>>(
      p,
      {heads_map(a.q, a.seqs.tokens, q_row, q_row, flash::kQueries),
       heads_map(a.kv, a.rows, kv_row, kv_row, flash::kKeys),
       heads_map(a.k_rope, a.rows, a.k_rope_stride, 64, flash::kKeys)},
      stream);
}

cudaError_t flash_gqa(const FlashGqaArgs& a, cudaStream_t stream) {
  if (a.seqs.tokens == 0) return cudaSuccess;
  if ((a.dim != 64 && a.dim != 128) || a.kv_heads <= 0 || a.heads % a.kv_heads != 0)
    return cudaErrorInvalidValue;
  flash::Params p;
  p.seqs = a.seqs;
  p.out_stride = a.out_stride;
  p.out = static_cast<__nv_bfloat16*>(a.out);
  p.scale_log2 = a.scale * kLog2E;
  p.window = a.window;
  p.order = {.heads = a.heads, .group = a.heads / a.kv_heads, .key_bytes = std::int64_t{4} * a.dim};
  p.q_stride = static_cast<int>(a.q_stride);
  p.k_stride = a.dim;
  p.v_first = a.kv_heads * a.dim;
  p.past_rows = static_cast<std::int32_t>(a.blocks * 64);
  const std::int64_t q_row = a.heads * a.q_stride, token = std::int64_t{2} * a.kv_heads * a.dim;
  const TensorMapSpec cache = heads_map(a.cache, a.blocks * 64, token, token, 64);
  const TensorMapSpec q = heads_map(a.q, a.seqs.tokens, q_row, q_row, flash::kQueries);
  if (a.dim == 64) return launch_shape<flash::Shape<64, 0, 64, true>>(p, {q, cache, cache}, stream);
  return launch_shape<flash::Shape<128, 0, 128, true>>(p, {q, cache, cache}, stream);
}

}  // namespace trireme::cuda
