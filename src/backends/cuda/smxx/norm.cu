#include "backends/cuda/smxx/norm.h"

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kMaxThreads = 512;

// Threads of a block that holds V vectors a thread: 2 x 448 x 8 is DeepSeek-V3's 7168.
constexpr int threads_of(int v) { return v == 2 ? 448 : kMaxThreads; }

// The sum of v over the block, for every thread.
__device__ __forceinline__ float block_sum(float v) {
  __shared__ float of_warp[kMaxThreads / 32];
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  v = lane < static_cast<int>(blockDim.x / 32) ? of_warp[lane] : 0.0f;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

template <bool Wide>
__device__ __forceinline__ void load_weight(const NormArgs& a, int at, float (&w)[8]) {
  const int valid = static_cast<int>(a.n) - at;
  if (Wide && valid <= 0) {
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = 0;
  } else if (Wide && !a.weight_bf16) {
    const auto* const p = reinterpret_cast<const float4*>(static_cast<const float*>(a.weight) + at);
    const float4 u = __ldg(p), v = __ldg(p + 1);
    w[0] = u.x, w[1] = u.y, w[2] = u.z, w[3] = u.w;
    w[4] = v.x, w[5] = v.y, w[6] = v.z, w[7] = v.w;
  } else if (Wide) {
    unpack8(__ldg(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(a.weight) + at)), w);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= valid)
        w[i] = 0;
      else
        w[i] = a.weight_bf16 ? bf16_value(static_cast<const uint16_t*>(a.weight)[at + i])
                             : static_cast<const float*>(a.weight)[at + i];
    }
  }
}

// A block a row. Thread t holds vectors t, t + threads, ...: the 16 that make a block of 128 values lie in
// neighbouring lanes.
template <int V, bool Wide>
__global__ __launch_bounds__(threads_of(V)) void norm_kernel(NormArgs a) {
  pdl_launch();
  const int n = static_cast<int>(a.n), step = static_cast<int>(blockDim.x) * 8;
  const int first = static_cast<int>(threadIdx.x) * 8;
  float w[V][8];  // no kernel writes weights: they may come before the wait
#pragma unroll
  for (int i = 0; i < V; ++i) load_weight<Wide>(a, first + i * step, w[i]);
  pdl_wait();

  const int64_t row = blockIdx.x;
  uint16_t* const x_row = a.x + row * a.x_stride;
  uint4 x[V], y[V];
#pragma unroll
  for (int i = 0; i < V; ++i) x[i] = load8<Wide>(x_row + first + i * step, n - first - i * step);
  if (a.y != nullptr) {
    const uint16_t* const y_row = a.y + row * a.y_stride;
#pragma unroll
    for (int i = 0; i < V; ++i) y[i] = load8<Wide>(y_row + first + i * step, n - first - i * step);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float f[8], g[8];
      unpack8(x[i], f);
      unpack8(y[i], g);
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] += g[j];
      x[i] = pack8(f);
      store8<Wide>(x_row + first + i * step, x[i], n - first - i * step);
    }
  }

  float sum = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float f[8];
    unpack8(x[i], f);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum = fmaf(f[j], f[j], sum);
  }
  const float scale = norm_scale(block_sum(sum), n, a.eps);

#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int at = first + i * step;
    float f[8];
    unpack8(x[i], f);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] *= scale * w[i][j];
    const uint4 rounded = pack8(f);
    if (a.out != nullptr) store8<Wide>(a.out + row * a.out_stride + at, rounded, n - at);
    if (a.q.codes != nullptr) {
      float block_scale;
      const uint2 codes = quantise_block(rounded, block_scale);
      if (at < n) *reinterpret_cast<uint2*>(a.q.codes + row * a.n + at) = codes;
      if (at < n && at % 128 == 0) a.q.scale[at / 128 * a.q.scale_stride + row] = block_scale;
    }
  }
}

template <int V>
cudaError_t launch_norm(const NormArgs& a, cudaStream_t stream) {
  const bool fits = wide(a.x, a.x_stride, 2, a.n) && wide(a.y, a.y_stride, 2, a.n) &&
                    wide(a.out, a.out_stride, 2, a.n) && wide(a.weight, 0, a.weight_bf16 ? 2 : 4, a.n);
  const int64_t vectors = (a.n + 7) / 8, threads = ((vectors + V - 1) / V + 31) / 32 * 32;
  return launch(fits ? norm_kernel<V, true> : norm_kernel<V, false>, static_cast<unsigned>(a.rows),
                static_cast<unsigned>(threads), 0, stream, a);
}

}  // namespace

cudaError_t norm(const NormArgs& a, cudaStream_t stream) {
  const int64_t vectors = (a.n + 7) / 8;
  if (vectors <= threads_of(1)) return launch_norm<1>(a, stream);
  if (vectors <= 2 * threads_of(2)) return launch_norm<2>(a, stream);
  if (vectors <= 4 * threads_of(4)) return launch_norm<4>(a, stream);
  return cudaErrorInvalidValue;
}

}  // namespace trireme::cuda::smxx
