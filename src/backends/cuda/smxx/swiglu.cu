#include "backends/cuda/smxx/swiglu.h"

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kThreads = 256, kUnroll = 2, kBlocksPerSm = 4;

// A thread takes 8 values; row_vectors of them, a multiple of 16, make a row. The grid walks over the rows in
// use, whose number it may only learn here.
template <bool Wide>
__global__ __launch_bounds__(kThreads) void swiglu_kernel(SwigluArgs a, uint32_t row_vectors) {
  pdl_launch();
  pdl_wait();
  auto rows = static_cast<uint32_t>(a.rows);
  if (a.rows_used != nullptr)
    rows = min(rows, static_cast<uint32_t>(max(*static_cast<const volatile int32_t*>(a.rows_used), 0)));
  const uint32_t items = rows * row_vectors;
  const int n = static_cast<int>(a.n);
  for (uint32_t begin = blockIdx.x * kThreads * kUnroll; begin < items;
       begin += gridDim.x * kThreads * kUnroll) {
    uint4 gate[kUnroll], up[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t item = begin + u * kThreads + threadIdx.x, row = item / row_vectors;
      const int at = static_cast<int>(item - row * row_vectors) * 8, valid = item < items ? n - at : 0;
      const uint16_t* const p = a.gate_up + static_cast<int64_t>(row) * a.gate_up_stride + at;
      gate[u] = load8<Wide>(p, valid);
      up[u] = load8<Wide>(p + n, valid);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t item = begin + u * kThreads + threadIdx.x, row = item / row_vectors;
      const int at = static_cast<int>(item - row * row_vectors) * 8, valid = item < items ? n - at : 0;
      float g[8], h[8];
      unpack8(gate[u], g);
      unpack8(up[u], h);
#pragma unroll
      for (int i = 0; i < 8; ++i) h[i] *= __fdividef(g[i], 1.0f + __expf(-g[i]));
      const uint4 rounded = pack8(h);
      if (a.out != nullptr)
        store8<Wide>(a.out + static_cast<int64_t>(row) * a.out_stride + at, rounded, valid);
      if (a.q.codes == nullptr) continue;
      float scale;
      unpack8(rounded, h);
      const uint2 codes = quantise_block(h, scale);
      if (valid <= 0) continue;
      *reinterpret_cast<uint2*>(a.q.codes + row * a.n + at) = codes;
      if (at % 128 == 0) a.q.scale[at / 128 * a.q.scale_stride + row] = scale;
    }
  }
}

}  // namespace

cudaError_t swiglu(const SwigluArgs& a, cudaStream_t stream) {
  const auto row_vectors = static_cast<uint32_t>((a.n + 127) / 128 * 16);
  if (a.rows * row_vectors > INT32_MAX) return cudaErrorInvalidValue;
  int64_t blocks = (a.rows * row_vectors + kThreads * kUnroll - 1) / (kThreads * kUnroll);
  if (a.rows_used != nullptr && blocks > multiprocessors() * kBlocksPerSm)
    blocks = multiprocessors() * kBlocksPerSm;
  const bool fits = wide(a.gate_up, a.gate_up_stride, 2, a.n) && wide(a.out, a.out_stride, 2, a.n);
  return launch(fits ? swiglu_kernel<true> : swiglu_kernel<false>, static_cast<unsigned>(blocks), kThreads, 0,
                stream, a, row_vectors);
}

}  // namespace trireme::cuda::smxx
