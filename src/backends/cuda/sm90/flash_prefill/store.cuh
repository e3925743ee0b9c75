// A tile's rows of out.
#pragma once
#include "backends/cuda/sm90/flash_prefill/softmax.cuh"
#include "backends/cuda/sm90/flash_prefill/work.cuh"

namespace trireme::cuda::flash {

struct Out {
  __nv_bfloat16* base;
  std::int64_t stride;  // from one head's row to the next
  int heads;
  __device__ __nv_bfloat16* row(const Work& w, std::int64_t q_row) const {
    return base + (q_row * heads + w.head) * stride;
  }
};

// Four words of each of a quad's four lanes: lane i gets word i of them all, in the order of the lanes.
__device__ __forceinline__ void transpose_quad(std::uint32_t (&v)[4], int lane) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      const std::uint32_t got = __shfl_xor_sync(~0u, upper ? v[i] : v[i + step], step);
      (upper ? v[i] : v[i + step]) = got;
    }
  }
}

// o, divided, of queries `row` and `row` + 8 of the tile. Lanes of a quad trade pairs so that each writes 16
// bytes.
template <int kHalf>
__device__ __forceinline__ void store_rows(const Out& out, const Work& w, const float (&o)[kHalf], int row) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int in_sequence = w.first + row + 8 * h;
    __nv_bfloat16* to = out.row(w, w.q_row + row + 8 * h);
#pragma unroll
    for (int j = 0; j < kHalf / 4; j += 4) {
      std::uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = pack_pair(o[4 * (j + i) + 2 * h], o[4 * (j + i) + 2 * h + 1]);
      transpose_quad(v, lane);
      if (in_sequence < w.q_len) *reinterpret_cast<uint4*>(to + (j + lane) * 8) = {v[0], v[1], v[2], v[3]};
    }
  }
}

// Rows of a padding sequence, of kV columns, by one warpgroup.
template <int kV>
__device__ void write_zeros(const Out& out, const Work& w, int group) {
  const int count = min(64, w.q_len - w.first - group * 64), thread = threadIdx.x % 128;
  for (int i = thread; i < count * (kV / 8); i += 128)
    *reinterpret_cast<uint4*>(out.row(w, w.q_row + group * 64 + i / (kV / 8)) + i % (kV / 8) * 8) = uint4{};
}

}  // namespace trireme::cuda::flash
