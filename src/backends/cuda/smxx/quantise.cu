#include "backends/cuda/smxx/quantise.h"

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kThreads = 256, kUnroll = 2;

// A thread takes 8 values of each of kUnroll rows, see Tiling.
template <bool Wide>
__global__ __launch_bounds__(kThreads) void quantise_kernel(QuantiseArgs a, Tiling t) {
  pdl_launch();
  pdl_wait();
  const int thread = static_cast<int>(threadIdx.x), tile_rows = kThreads >> t.log;
  const int at = static_cast<int>((blockIdx.y << t.log) + (thread & ((1 << t.log) - 1))) * 8;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile_rows * kUnroll + (thread >> t.log);
  uint4 x[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t row = first + u * tile_rows;
    x[u] = load8<Wide>(a.x + row * a.x_stride + at, row < a.rows ? static_cast<int>(a.k) - at : 0);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t row = first + u * tile_rows;
    float scale;
    const uint2 codes = quantise_block(x[u], scale);
    if (row >= a.rows || at >= a.k) continue;
    *reinterpret_cast<uint2*>(a.q.codes + row * a.k + at) = codes;
    if (at % 128 == 0) a.q.scale[at / 128 * a.q.scale_stride + row] = scale;
  }
}

}  // namespace

cudaError_t quantise(const QuantiseArgs& a, cudaStream_t stream) {
  const Tiling t = tiling(a.k);
  const int64_t together = t.rows * kUnroll, blocks = (a.rows + together - 1) / together;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(t.columns));
  return launch(wide(a.x, a.x_stride, 2, a.k) ? quantise_kernel<true> : quantise_kernel<false>, grid,
                kThreads, 0, stream, a, t);
}

}  // namespace trireme::cuda::smxx
