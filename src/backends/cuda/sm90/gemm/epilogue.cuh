#pragma once
// From a warpgroup's accumulators to rows of the output, straight from registers.

#include <cuda_bf16.h>

#include <cstdint>

namespace trireme::cuda {

// Transposes the 4x4 words that the four lanes of a quad hold four each.
__device__ __forceinline__ void quad_transpose(std::uint32_t (&v)[4], int quad_lane) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool high = (quad_lane & bit) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const std::uint32_t got = __shfl_xor_sync(~0u, high ? v[i] : v[i | bit], bit);
      v[i] = high ? got : v[i];
      v[i | bit] = high ? v[i | bit] : got;
    }
  }
}

__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// acc: 64 rows by 2 * kCount / 4 * 4 columns in wgmma's layout. rows, cols: how many of them exist.
template <int kCount>
__device__ __forceinline__ void store_bf16(const float (&acc)[kCount], __nv_bfloat16* out,
                                           std::int64_t stride, int rows, int cols) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int quad_lane = lane % 4;
  const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool row_exists = row + 8 * half < rows;
    __nv_bfloat16* line = out + (row + 8 * half) * stride;
#pragma unroll
    for (int j = 0; j < kCount / 16; ++j) {
      std::uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[i] = pack_bf16(acc[(4 * j + i) * 4 + 2 * half], acc[(4 * j + i) * 4 + 2 * half + 1]);
      }
      // Lane q of the quad held columns 2q, 2q+1 of four groups of 8; now it holds all of group q: 16 bytes.
      quad_transpose(v, quad_lane);
      const int col = 32 * j + 8 * quad_lane;
      if (row_exists && col < cols)
        *reinterpret_cast<uint4*>(line + col) = make_uint4(v[0], v[1], v[2], v[3]);
    }
  }
}

template <int kCount>
__device__ __forceinline__ void store_f32(const float (&acc)[kCount], float* out, std::int64_t stride,
                                          int rows, int cols) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool row_exists = row + 8 * half < rows;
    float* line = out + (row + 8 * half) * stride + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j) {
      if (row_exists && 8 * j < cols) {
        *reinterpret_cast<float2*>(line + 8 * j) =
            make_float2(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]);
      }
    }
  }
}

}  // namespace trireme::cuda
