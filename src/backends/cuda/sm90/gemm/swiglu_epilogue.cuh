#pragma once
// From a warpgroup's sums of gate and up to rows of silu(gate) * up, quantised and BF16, from registers.

#include <cuda_bf16.h>

#include <cstdint>

#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::fused {

__device__ __forceinline__ float silu_times(float gate, float up) {
  float power, reciprocal;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(gate * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0f + power));
  return gate * reciprocal * up;
}

// One row's 128 values lie in a quad: word j of lane q holds columns 8 j + 2 q and the next, as BF16.
__device__ __forceinline__ float quad_amax(const std::uint32_t (&h)[16]) {
  constexpr std::uint32_t kMagnitude = 0x7fff7fffu;
  std::uint32_t most = h[0] & kMagnitude;
#pragma unroll
  for (int j = 1; j < 16; ++j) most = smxx::max_pair(most, h[j] & kMagnitude);
#pragma unroll
  for (int d = 1; d <= 2; d *= 2) most = smxx::max_pair(most, __shfl_xor_sync(~0u, most, d));
  return fmaxf(smxx::low(most), smxx::high(most));
}

// The scale of a block whose largest magnitude is known: as smxx::quantise_block has it, to the bit.
__device__ __forceinline__ float block_scale(float amax) {
  return smxx::quotient(fmaxf(amax, 1e-30f), 448.0f, 1.0f / 448.0f);
}

// Codes of the row, 16 bytes a store: lane q of the quad stores columns 64 t + 16 q.
__device__ __forceinline__ void store_codes(const std::uint32_t (&h)[16], float scale, std::uint8_t* line,
                                            int quad_lane, bool row_exists) {
  float inverse;
  asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(scale));
  inverse = fmaf(inverse, fmaf(-scale, inverse, 1.0f), inverse);
  const auto pair = [&](std::uint32_t v) {
    return smxx::e4m3_pair(smxx::quotient(smxx::low(v), scale, inverse),
                           smxx::quotient(smxx::high(v), scale, inverse));
  };
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    std::uint32_t v[4];  // of the columns that lane i will store: two of its low 8, two of its high 8
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = pair(h[8 * t + 2 * i]) | pair(h[8 * t + 2 * i + 1]) << 16;
    quad_transpose(v, quad_lane);
    if (!row_exists) continue;
    *reinterpret_cast<uint4*>(line + 64 * t + 16 * quad_lane) =
        make_uint4(__byte_perm(v[0], v[1], 0x5410), __byte_perm(v[2], v[3], 0x5410),
                   __byte_perm(v[0], v[1], 0x7632), __byte_perm(v[2], v[3], 0x7632));
  }
}

__device__ __forceinline__ void store_values(const std::uint32_t (&h)[16], __nv_bfloat16* line, int quad_lane,
                                             bool row_exists) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    std::uint32_t v[4] = {h[4 * j], h[4 * j + 1], h[4 * j + 2], h[4 * j + 3]};
    quad_transpose(v, quad_lane);
    if (row_exists)
      *reinterpret_cast<uint4*>(line + 32 * j + 8 * quad_lane) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

}  // namespace trireme::cuda::fused
