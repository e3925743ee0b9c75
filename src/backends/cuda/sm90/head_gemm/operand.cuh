// A warp's 16 rows of 128 activations as the first operand of its multiplies: as they are, or as e4m3 codes.
#pragma once
#include <cstdint>

#include "backends/cuda/prim/warp_mma.cuh"
#include "backends/cuda/sm90/head_gemm/fragment.cuh"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::head {

// `left`, `right`: addresses of the first and the second 64 values of the warp's rows.
__device__ __forceinline__ void load_rows(std::uint32_t (&a)[32], std::uint32_t left, std::uint32_t right) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    std::uint32_t v[4];
    load_matrix4(v, (i < 4 ? left : right) + swizzled(lane & 15, 2 * (i % 4) + (lane >> 4)));
#pragma unroll
    for (int j = 0; j < 4; ++j) a[4 * i + j] = v[j];
  }
}

// The length of each of the warp's rows, of rows lane / 4 and lane / 4 + 8.
__device__ __forceinline__ void row_lengths(const std::uint32_t (&a)[32], float (&length)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = 0;
#pragma unroll
    for (int i = r; i < 32; i += 2) {
      sum = fmaf(smxx::low(a[i]), smxx::low(a[i]), sum);
      sum = fmaf(smxx::high(a[i]), smxx::high(a[i]), sum);
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    length[r] = sqrtf(sum);
  }
}

// What a scale of max |x| / 448 and its reciprocal are for a row whose largest magnitudes are the pair
// `most`.
struct RowScale {
  float value, inverse;
  __device__ __forceinline__ explicit RowScale(std::uint32_t most) {
    const float largest = fmaxf(fmaxf(smxx::low(most), smxx::high(most)), 1e-30f);
    value = smxx::quotient(largest, 448.0f, 1.0f / 448.0f);
    inverse = __frcp_rn(value);
  }
  __device__ __forceinline__ std::uint32_t codes(const uint2& v) const {
    const auto pair = [&](std::uint32_t two) {
      return smxx::e4m3_pair(smxx::quotient(smxx::low(two), value, inverse),
                             smxx::quotient(smxx::high(two), value, inverse));
    };
    return pair(v.x) | pair(v.y) << 16;
  }
};

// scale: of rows lane / 4 and lane / 4 + 8.
__device__ __forceinline__ void quantise_rows(std::uint32_t (&a)[16], float (&scale)[2], std::uint32_t left,
                                              std::uint32_t right) {
  constexpr std::uint32_t kMagnitude = 0x7fff7fffu;
  const int lane = static_cast<int>(threadIdx.x) % 32, quad = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = lane / 4 + 8 * r;
    uint2 v[8];  // 4 values every 16
    std::uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int chunk = 2 * (i % 4) + quad / 2;
      v[i] = load_shared8((i < 4 ? left : right) + swizzled(row, chunk) +
                          static_cast<std::uint32_t>(quad % 2 * 8));
      most = smxx::max_pair(most, smxx::max_pair(v[i].x & kMagnitude, v[i].y & kMagnitude));
    }
    most = smxx::max_pair(most, __shfl_xor_sync(~0u, most, 1));
    most = smxx::max_pair(most, __shfl_xor_sync(~0u, most, 2));
    const RowScale s(most);
    scale[r] = s.value;
#pragma unroll
    for (int i = 0; i < 8; ++i) a[4 * (i / 2) + 2 * (i % 2) + r] = s.codes(v[i]);
  }
}

}  // namespace trireme::cuda::head
