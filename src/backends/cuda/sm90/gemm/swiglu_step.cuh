#pragma once
// What a math warpgroup of the gate/up product has, and its step.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/gemm/stage_release.cuh"
#include "backends/cuda/sm90/gemm/swiglu_epilogue.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda::fused {

struct SwigluParams {
  GemmParams gemm;      // n: of the output; w_scale: [experts][2 n / 128][w_scale_stride]
  std::uint8_t* codes;  // [rows, n], or null
  float* scale;         // [n / 128][scale_stride]
  std::int64_t scale_stride;
  __nv_bfloat16* out;  // [rows, n], or null
  std::int64_t out_stride;
};

inline constexpr int kBn = 128, kStepK = 128;
inline constexpr int kWBytes = kBn * kStepK;  // of gate in a stage, and again of up
inline constexpr int kThreads = 384;          // a producer's warpgroup and two that multiply

// A place in the ring of stages and the parity of the round.
template <int kStages>
struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The scales of a tile's weights, of gate and of up, 32 blocks of K at a time: lane l holds block l.
struct WeightScales {
  const float* row[2];
  int k_blocks;
  float now[2], next[2];

  __device__ void begin(const GemmParams& p, const GemmTilePlace& tile) {
    const int blocks = p.n / 128;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto block = static_cast<std::int64_t>(tile.expert * 2 + i) * blocks + tile.col / 128;
      row[i] = p.w_scale + block * p.w_scale_stride;
    }
    k_blocks = p.k_blocks;
    load(0);
  }
  __device__ void load(int from) {
    const int kb = min(from + static_cast<int>(threadIdx.x) % 32, k_blocks - 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) next[i] = __ldg(row[i] + kb);
  }
  // Before block kb, in order: keeps the following 32 on their way.
  __device__ void step(int kb) {
    if (kb % 32 != 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) now[i] = next[i];
    if (kb + 32 < k_blocks) load(kb + 32);
  }
  __device__ float of(int i, int kb) const { return __shfl_sync(~0u, now[i], kb % 32); }
};

__device__ __forceinline__ void issue(float (&part)[64], std::uint64_t x, std::uint64_t w) {
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_ss_e4m3<128>(part, x + 2 * i, w + 2 * i, i > 0);
  wgmma_commit();
}

// One scale after the other: a register that the next addition reads again need not be fetched again.
__device__ __forceinline__ void add(float (&sum)[64], float (&part)[64], float s0, float s1) {
  wgmma_hold(part);
#pragma unroll
  for (int i = 0; i < 64; i += 4) {
    sum[i] += s0 * part[i];
    sum[i + 1] += s0 * part[i + 1];
  }
#pragma unroll
  for (int i = 2; i < 64; i += 4) {
    sum[i] += s1 * part[i];
    sum[i + 1] += s1 * part[i + 1];
  }
}

}  // namespace trireme::cuda::fused
