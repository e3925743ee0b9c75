#pragma once
// From a warp's sums of 16 rows of the weights by kTokens tokens, in wgmma's layout, to rows of the output:
// the transpose goes through registers, and every 32 bytes that one token gets are written together.

#include <cuda_bf16.h>

#include <cstdint>

#include "backends/cuda/sm90/gemm/epilogue.cuh"

namespace trireme::cuda {

// An 8x8 matrix of 16-bit words, a row in four lanes, transposed.
__device__ __forceinline__ std::uint32_t transpose_8x8(std::uint32_t v) {
  std::uint32_t t;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(v));
  return t;
}

// What GemmFinish says beyond the product. token, row: the first of x and of the weights; tokens, rows: how
// many exist from there.
template <int kFloats>
__device__ __forceinline__ void finish_thin(float (&acc)[kFloats], const GemmFinish& f, bool residual_f32,
                                            int token, int row, int tokens, int rows) {
  if (f.row_weight == nullptr && f.bias == nullptr && f.residual == nullptr) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kFloats; ++i) {
    const int t = i / 4 * 8 + 2 * (lane % 4) + i % 2, r = lane / 4 + i / 2 % 2 * 8;
    if (t >= tokens || r >= rows) continue;
    if (f.row_weight != nullptr) acc[i] *= f.row_weight[token + t];
    if (f.bias != nullptr) acc[i] += f.bias[row + r];
    if (f.residual == nullptr) continue;
    const std::int64_t at = (token + t) * f.residual_stride + row + r;
    acc[i] += residual_f32 ? static_cast<const float*>(f.residual)[at]
                           : __bfloat162float(static_cast<const __nv_bfloat16*>(f.residual)[at]);
  }
}

// tokens, rows: how many of them exist from here; rows is a multiple of 8.
template <int kFloats>
__device__ __forceinline__ void store_thin_bf16(const float (&acc)[kFloats], __nv_bfloat16* out,
                                                std::int64_t stride, int tokens, int rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32, quad_lane = lane % 4;
#pragma unroll
  for (int j = 0; j < kFloats / 8; ++j) {
    if (16 * j >= tokens) break;
    // Of 16 tokens; lane t has token t / 4 of the first 8 (v[0], v[1]) and of the other 8, weights 2 (t % 4),
    // +1 of rows 0-7 (v[0], v[2]) and of rows 8-15.
    std::uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* a = &acc[8 * j + i / 2 * 4 + i % 2 * 2];
      v[i] = transpose_8x8(pack_bf16(a[0], a[1]));
    }
    quad_transpose(v, quad_lane);  // now lane q of the quad has all of v[q]
    const int token = 16 * j + quad_lane / 2 * 8 + lane / 4, row = quad_lane % 2 * 8;
    if (token < tokens && row < rows)
      *reinterpret_cast<uint4*>(out + token * stride + row) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

template <int kFloats>
__device__ __forceinline__ void store_thin_f32(const float (&acc)[kFloats], float* out, std::int64_t stride,
                                               int tokens, int rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < kFloats / 4; ++j) {
    if (8 * j >= tokens) break;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 8 * j + 2 * (lane % 4) + i % 2, row = lane / 4 + i / 2 * 8;
      if (token < tokens && row < rows) out[token * stride + row] = acc[4 * j + i];
    }
  }
}

}  // namespace trireme::cuda
