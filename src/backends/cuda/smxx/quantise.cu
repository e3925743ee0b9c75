#include "backends/cuda/smxx/quantise.h"

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kThreads = 256, kUnroll = 4;

// A thread takes 8 values; row_vectors of them, a multiple of 16, make a row.
template <bool Wide>
__global__ __launch_bounds__(kThreads) void quantise_kernel(QuantiseArgs a, uint32_t row_vectors) {
  pdl_launch();
  pdl_wait();
  const auto items = static_cast<uint32_t>(a.rows) * row_vectors;
  const uint32_t first = blockIdx.x * kThreads * kUnroll + threadIdx.x;
  uint4 x[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const uint32_t item = first + u * kThreads, row = item / row_vectors;
    const int at = static_cast<int>(item - row * row_vectors) * 8;
    x[u] = load8<Wide>(a.x + static_cast<int64_t>(row) * a.x_stride + at,
                       item < items ? static_cast<int>(a.k) - at : 0);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const uint32_t item = first + u * kThreads, row = item / row_vectors;
    const int at = static_cast<int>(item - row * row_vectors) * 8;
    float f[8], scale;
    unpack8(x[u], f);
    const uint2 codes = quantise_block(f, scale);
    if (item >= items || at >= a.k) continue;
    *reinterpret_cast<uint2*>(a.q.codes + static_cast<int64_t>(row) * a.k + at) = codes;
    if (at % 128 == 0) a.q.scale[at / 128 * a.q.scale_stride + row] = scale;
  }
}

}  // namespace

cudaError_t quantise(const QuantiseArgs& a, cudaStream_t stream) {
  const auto row_vectors = static_cast<uint32_t>((a.k + 127) / 128 * 16);
  if (a.rows * row_vectors > INT32_MAX) return cudaErrorInvalidValue;
  const int64_t blocks = (a.rows * row_vectors + kThreads * kUnroll - 1) / (kThreads * kUnroll);
  const auto kernel = wide(a.x, a.x_stride, 2, a.k) ? quantise_kernel<true> : quantise_kernel<false>;
  return launch(kernel, static_cast<unsigned>(blocks), kThreads, 0, stream, a, row_vectors);
}

}  // namespace trireme::cuda::smxx
