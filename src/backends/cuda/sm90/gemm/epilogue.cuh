#pragma once
// From a warpgroup's accumulators to rows of the output, straight from registers or through shared memory,
// and what products are finished with.

#include <cuda_bf16.h>

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

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
__device__ __forceinline__ void store_bf16(const float* acc, __nv_bfloat16* out, std::int64_t stride,
                                           int rows, int cols) {
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
    // Where there are 16 columns more, pair by pair.
#pragma unroll
    for (int j = kCount / 16 * 4; j < kCount / 4; ++j) {
      const int col = 8 * j + 2 * quad_lane;
      if (row_exists && 8 * j < cols)
        *reinterpret_cast<std::uint32_t*>(line + col) =
            pack_bf16(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]);
    }
  }
}

__device__ __forceinline__ void store_matrices(std::uint32_t address, std::uint32_t a, std::uint32_t b,
                                               std::uint32_t c, std::uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a),
               "r"(b), "r"(c), "r"(d)
               : "memory");
}

// 64 rows by 64 columns to a chunk of shared memory, rows of 128 bytes in the 128-byte swizzle.
__device__ __forceinline__ void stage_bf16(const float* acc, unsigned char* chunk) {
  const std::uint32_t lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane % 16;
  const std::uint32_t line = smem_address(chunk) + row * 128;
#pragma unroll
  for (std::uint32_t j = 0; j < 4; ++j) {
    const float* v = acc + 8 * j;
    store_matrices(line + (((2 * j + lane / 16) ^ (row % 8)) << 4), pack_bf16(v[0], v[1]),
                   pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  }
}

// v in a register that is not bound to where v stands. What is stored with its neighbours must stand beside
// them; of sums that a loop adds to, that puts all three operands of an addition into one bank of registers,
// which made FP8 products up to a tenth slower. none: always_zero.
__device__ __forceinline__ float elsewhere(float v, std::uint32_t none) {
  return __uint_as_float(__float_as_uint(v) ^ none);
}

// Zero, and the compiler does not know it.
__device__ __forceinline__ std::uint32_t always_zero(const GemmParams& p) {
  return static_cast<std::uint32_t>(p.k_blocks) >> 31;
}

template <int kCount>
__device__ __forceinline__ void store_f32(const float* acc, float* out, std::int64_t stride, int rows,
                                          int cols, std::uint32_t none) {
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
            make_float2(elsewhere(acc[4 * j + 2 * half], none), elsewhere(acc[4 * j + 2 * half + 1], none));
      }
    }
  }
}

// What GemmParams says beyond the product. acc: 64 rows by 2 * kCount columns from (row, col) on, of which
// `rows` and `cols` exist.
template <int kCount>
__device__ __forceinline__ void finish(float* acc, const GemmParams& p, int row, int col, int rows,
                                       int cols) {
  if (p.row_weight == nullptr && p.bias == nullptr && p.residual == nullptr) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int mine = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
  const int col_in_8 = 2 * (lane % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = mine + 8 * half;
    if (r >= rows) break;
    float* const v = &acc[2 * half];
    if (p.row_weight != nullptr) {
      const float weight = p.row_weight[row + r];
#pragma unroll
      for (int j = 0; j < kCount; j += 4) {
        v[j] *= weight;
        v[j + 1] *= weight;
      }
    }
    if (p.bias != nullptr) {
#pragma unroll
      for (int j = 0; j < kCount; j += 4) {
        if (2 * j >= cols) break;
        v[j] += p.bias[col + 2 * j + col_in_8];
        v[j + 1] += p.bias[col + 2 * j + col_in_8 + 1];
      }
    }
    if (p.residual == nullptr) continue;
    const std::int64_t first = static_cast<std::int64_t>(row + r) * p.residual_stride + col + col_in_8;
#pragma unroll
    for (int j = 0; j < kCount; j += 4) {
      if (2 * j >= cols) break;
      float2 add;
      if (p.out_f32) {
        add = *reinterpret_cast<const float2*>(static_cast<const float*>(p.residual) + first + 2 * j);
      } else {
        add = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(
            static_cast<const __nv_bfloat16*>(p.residual) + first + 2 * j));
      }
      v[j] += add.x;
      v[j + 1] += add.y;
    }
  }
}

}  // namespace trireme::cuda
