#include "backends/cuda/sm90/flash_prefill_fp8/flash_prefill_fp8.h"

#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/flash_prefill_fp8/kernel.cuh"

namespace trireme::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

flash_fp8::Room room_of(void* at, std::int64_t rows, int seqs, int heads) {
  return {static_cast<unsigned char*>(at), flash_fp8::Room::tiles_of(rows, seqs), heads};
}

}  // namespace

std::int64_t flash_mla_fp8_room_bytes(std::int64_t rows, int seqs, int heads) {
  return room_of(nullptr, rows, seqs, heads).bytes();
}

cudaError_t flash_mla_fp8(const FlashMlaFp8Args& a, cudaStream_t stream) {
  using namespace flash_fp8;
  const FlashMlaArgs& m = a.mla;
  const FlashBatch& seqs = m.seqs;
  if (seqs.tokens == 0 || seqs.batch.seqs == 0) return cudaSuccess;
  Params p;
  p.seqs = seqs;
  p.k_start = m.k_start;
  p.room = room_of(a.room, m.rows, seqs.batch.seqs, m.heads);
  p.out = {static_cast<__nv_bfloat16*>(m.out), m.out_stride, m.heads};
  p.scale_log2 = m.scale * kLog2E;
  p.k_scale = a.k_scale;
  p.v_scale = a.v_scale;
  p.order = {.heads = m.heads, .group = 1, .key_bytes = 2 * kPart / kTile};
  p.q_stride = static_cast<int>(m.q_stride);

  const auto encode = [](const void* base, std::int64_t rows, std::int64_t columns, std::int64_t stride,
                         CUtensorMap& map) {
    return encode_tensor_map(
        matrix_map(base, MapType::bf16, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns),
                   static_cast<std::uint64_t>(2 * stride), 128, kChunk, MapSwizzle::b128),
        &map);
  };
  CUtensorMap q, k_rope;
  const std::int64_t q_row = m.heads * m.q_stride;
  if (const cudaError_t e = encode(m.q, seqs.tokens, q_row, q_row, q); e != cudaSuccess) return e;
  if (const cudaError_t e = encode(m.k_rope, m.rows, kRope, m.k_rope_stride, k_rope); e != cudaSuccess)
    return e;
  // Every time: it holds for one device, and a process may have several.
  const cudaError_t allowed =
      cudaFuncSetAttribute(prefill, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Smem));
  if (allowed != cudaSuccess) return allowed;

  const PackParams pack{p.room,      m.k_start,     seqs.batch.seqs, static_cast<const std::uint16_t*>(m.kv),
                        m.kv_stride, 1 / a.k_scale, 1 / a.v_scale,   seqs.counter};
  pack_kernel<<<dim3(static_cast<unsigned>(p.room.tiles), static_cast<unsigned>(m.heads)), kPackThreads, 0,
                stream>>>(pack);
  if (const cudaError_t e = cudaGetLastError(); e != cudaSuccess) return e;
  const std::int64_t work = flash::tiles_bound(seqs) * m.heads;
  prefill<<<static_cast<unsigned>(work < seqs.sms ? work : seqs.sms), kThreads, sizeof(Smem), stream>>>(
      p, q, k_rope);
  return cudaGetLastError();
}

}  // namespace trireme::cuda
