#include "backends/cuda/smxx/swiglu.h"

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kThreads = 256, kUnroll = 2, kBlocksPerSm = 32;

__device__ __forceinline__ float silu(float x) {
  float power, reciprocal;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0f + power));
  return x * reciprocal;
}

// A thread takes 8 values of each of kUnroll rows, see Tiling. The grid walks over the rows in use, whose
// number it may only learn here.
template <bool Wide>
__global__ __launch_bounds__(kThreads) void swiglu_kernel(SwigluArgs a, Tiling t) {
  pdl_launch();
  pdl_wait();
  auto rows = static_cast<int>(a.rows);
  if (a.rows_used != nullptr) rows = min(rows, *static_cast<const volatile int32_t*>(a.rows_used));
  const int n = static_cast<int>(a.n), thread = static_cast<int>(threadIdx.x), tile_rows = kThreads >> t.log;
  const int at = static_cast<int>((blockIdx.y << t.log) + (thread & ((1 << t.log) - 1))) * 8;
  for (int begin = static_cast<int>(blockIdx.x) * tile_rows * kUnroll; begin < rows;
       begin += static_cast<int>(gridDim.x) * tile_rows * kUnroll) {
    const int first = begin + (thread >> t.log);
    uint4 gate[kUnroll], up[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int row = first + u * tile_rows, valid = row < rows ? n - at : 0;
      const uint16_t* const p = a.gate_up + row * a.gate_up_stride + at;
      gate[u] = load8<Wide>(p, valid);
      up[u] = load8<Wide>(p + n, valid);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int row = first + u * tile_rows, valid = row < rows ? n - at : 0;
      float g[8], h[8];
      unpack8(gate[u], g);
      unpack8(up[u], h);
#pragma unroll
      for (int i = 0; i < 8; ++i) h[i] *= silu(g[i]);
      const uint4 rounded = pack8(h);
      if (a.out != nullptr) store8<Wide>(a.out + row * a.out_stride + at, rounded, valid);
      if (a.q.codes == nullptr) continue;
      float scale;
      const uint2 codes = quantise_block(rounded, scale);
      if (valid <= 0) continue;
      *reinterpret_cast<uint2*>(a.q.codes + row * a.n + at) = codes;
      if (at % 128 == 0) a.q.scale[at / 128 * a.q.scale_stride + row] = scale;
    }
  }
}

}  // namespace

cudaError_t swiglu(const SwigluArgs& a, cudaStream_t stream) {
  const Tiling t = tiling(a.n);
  const int64_t together = t.rows * kUnroll;
  int64_t blocks = (a.rows + together - 1) / together;
  // Where few of the rows may be in use, not a block for each.
  const int64_t most = (multiprocessors() * kBlocksPerSm + t.columns - 1) / t.columns;
  if (a.rows_used != nullptr && blocks > most) blocks = most;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(t.columns));
  const bool fits = wide(a.gate_up, a.gate_up_stride, 2, a.n) && wide(a.out, a.out_stride, 2, a.n);
  return launch(fits ? swiglu_kernel<true> : swiglu_kernel<false>, grid, kThreads, 0, stream, a, t);
}

}  // namespace trireme::cuda::smxx
