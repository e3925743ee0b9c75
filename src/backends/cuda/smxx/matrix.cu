#include "backends/cuda/smxx/matrix.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "backends/cuda/prim/launch.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float f8(std::uint8_t code) {
  __nv_fp8_e4m3 v;
  v.__x = code;
  return static_cast<float>(v);
}

__global__ void dequantise_kernel(DequantiseArgs a) {
  pdl_wait();
  pdl_launch();
  const auto* codes = static_cast<const std::uint8_t*>(a.codes);
  auto* out = static_cast<__nv_bfloat16*>(a.out);
  const std::int64_t row = blockIdx.x;
  const float* scale = a.scale + row / 128 * a.scale_stride;
  for (std::int64_t c = threadIdx.x; c < a.k; c += kThreads)
    out[row * a.k + c] = __float2bfloat16(f8(codes[row * a.k + c]) * scale[c / 128]);
}

__global__ void f16_kernel(void* data, std::int64_t n) {
  pdl_wait();
  pdl_launch();
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += std::int64_t{gridDim.x} * kThreads) {
    const float v = __half2float(static_cast<const __half*>(data)[i]);
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16(v);
  }
}

// 16 x 16 outputs a block, through shared tiles.
__global__ void plain_gemm_kernel(PlainGemmArgs a) {
  constexpr int kTile = 16;
  __shared__ float xs[kTile][kTile + 1], ws[kTile][kTile + 1];
  pdl_wait();
  pdl_launch();
  const int tx = static_cast<int>(threadIdx.x) % kTile, ty = static_cast<int>(threadIdx.x) / kTile;
  // Tiles of rows are counted expert by expert, since a tile has one matrix.
  std::int64_t begin = 0, end = a.rows;
  const __nv_bfloat16* w = static_cast<const __nv_bfloat16*>(a.w) + blockIdx.z * a.w_next;
  std::int64_t tile = blockIdx.y;
  if (a.expert_end != nullptr) {
    int e = 0;
    for (; e < a.experts; ++e) {
      begin = e == 0 ? 0 : a.expert_end[e - 1];
      end = a.expert_end[e];
      const std::int64_t tiles = (end - begin + kTile - 1) / kTile;
      if (tile < tiles) break;
      tile -= tiles;
    }
    if (e == a.experts) return;
    w += e * a.n * a.k;
  }
  const std::int64_t row = begin + tile * kTile + ty, col = std::int64_t{blockIdx.x} * kTile + tx;
  const auto* x = static_cast<const __nv_bfloat16*>(a.x) + blockIdx.z * a.x_next;
  float sum = 0;
  for (std::int64_t k0 = 0; k0 < a.k; k0 += kTile) {
    const std::int64_t wcol = std::int64_t{blockIdx.x} * kTile + ty;
    xs[ty][tx] = row < end && k0 + tx < a.k ? __bfloat162float(x[row * a.x_stride + k0 + tx]) : 0.0f;
    ws[ty][tx] = wcol < a.n && k0 + tx < a.k
                     ? __bfloat162float(a.w_transposed ? w[(k0 + tx) * a.n + wcol] : w[wcol * a.k + k0 + tx])
                     : 0.0f;
    __syncthreads();
    for (int i = 0; i < kTile; ++i) sum += xs[ty][i] * ws[tx][i];
    __syncthreads();
  }
  if (row >= end || col >= a.n) return;
  const std::int64_t at = blockIdx.z * a.out_next + row * a.out_stride + col;
  if (a.out_f32) {
    auto* out = static_cast<float*>(a.out);
    out[at] = a.accumulate ? out[at] + sum : sum;
  } else {
    auto* out = static_cast<__nv_bfloat16*>(a.out);
    out[at] = __float2bfloat16(a.accumulate ? __bfloat162float(out[at]) + sum : sum);
  }
}

__global__ void finish_kernel(FinishArgs a) {
  pdl_wait();
  pdl_launch();
  const std::int64_t row = blockIdx.x;
  if (a.rows_used != nullptr && row >= *a.rows_used) return;
  const float weight = a.weight == nullptr ? 1.0f : a.weight[row];
  for (std::int64_t c = threadIdx.x; c < a.n; c += kThreads) {
    const std::int64_t from = row * a.value_stride + c, to = row * a.out_stride + c;
    float v = a.value_f32 ? static_cast<const float*>(a.value)[from]
                          : __bfloat162float(static_cast<const __nv_bfloat16*>(a.value)[from]);
    if (a.bias != nullptr) v += a.bias[c];
    v *= weight;
    if (a.residual != nullptr) {
      const std::int64_t at = row * a.residual_stride + c;
      v += a.out_f32 ? static_cast<const float*>(a.residual)[at]
                     : __bfloat162float(static_cast<const __nv_bfloat16*>(a.residual)[at]);
    }
    if (a.out_f32)
      static_cast<float*>(a.out)[to] = v;
    else
      static_cast<__nv_bfloat16*>(a.out)[to] = __float2bfloat16(v);
  }
}

}  // namespace

cudaError_t dequantise_blocks(const DequantiseArgs& a, cudaStream_t stream) {
  return launch(dequantise_kernel, dim3(static_cast<unsigned>(a.n)), dim3(kThreads), 0, stream, a);
}

cudaError_t f16_to_bf16(void* data, std::int64_t n, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((n + kThreads - 1) / kThreads, 4096));
  return launch(f16_kernel, dim3(blocks), dim3(kThreads), 0, stream, data, n);
}

cudaError_t plain_gemm(const PlainGemmArgs& a, cudaStream_t stream) {
  if (a.rows == 0 || a.n == 0) return cudaSuccess;
  const auto tiles = static_cast<unsigned>((a.rows + 15) / 16 + (a.expert_end != nullptr ? a.experts : 0));
  const dim3 grid(static_cast<unsigned>((a.n + 15) / 16), tiles, static_cast<unsigned>(a.batch));
  return launch(plain_gemm_kernel, grid, dim3(kThreads), 0, stream, a);
}

cudaError_t finish_rows(const FinishArgs& a, cudaStream_t stream) {
  return launch(finish_kernel, dim3(static_cast<unsigned>(a.rows)), dim3(kThreads), 0, stream, a);
}

}  // namespace trireme::cuda
