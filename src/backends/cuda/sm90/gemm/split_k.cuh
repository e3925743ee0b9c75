#pragma once
// When tiles are fewer than the chip's multiprocessors: the CTAs of a cluster each take a slice of K of the
// same tile, and add their sums through each other's shared memory, in the order of their ranks.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda {

// The steps of K that this CTA multiplies.
struct KSlice {
  int first, count;
};

__device__ __forceinline__ KSlice slice_of(int k_blocks, int split, int rank) {
  const int first = k_blocks * rank / split;
  return {first, k_blocks * (rank + 1) / split - first};
}

// `words` of this CTA's shared memory, as CTA `rank` of the cluster has them.
__device__ __forceinline__ float4 load_from_cta(const float4* words, int rank) {
  float4 v;
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n"
      "}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(smem_address(words)), "r"(rank)
      : "memory");
  return v;
}

// sums: [kCount / 4][256 math threads]. ready: all CTAs' sums of a tile are there; free: all have been read.
template <int kCount>
struct SplitKSum {
  float4* sums;
  Mbarrier *ready, *free;  // arrivals: every math warp of the cluster
  int split, rank;
  std::uint32_t parity = 0;

  template <bool kRelease>
  __device__ static void arrive_everywhere(Mbarrier* bar, int split) {
    __syncwarp();
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane >= split) return;
    if constexpr (kRelease) {
      mbarrier_arrive_cluster(bar, static_cast<std::uint32_t>(lane));
    } else {
      mbarrier_arrive_cluster_relaxed(bar, static_cast<std::uint32_t>(lane));
    }
  }

  // Every math thread, for every tile. out: the place of the warpgroup's first row and column, [64, kCount *
  // 2]; each CTA stores every split-th piece of 32 columns.
  __device__ void add_and_store(const float (&acc)[kCount], const GemmParams& p, std::int64_t out, int rows,
                                int cols) {
    const int thread = static_cast<int>(threadIdx.x) - 128;
    mbarrier_wait_cluster(free, parity ^ 1);
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      sums[i * 256 + thread] = make_float4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]);
    }
    arrive_everywhere<true>(ready, split);
    mbarrier_wait_cluster(ready, parity);
    parity ^= 1;
    for (int piece = rank; piece < kCount / 16; piece += split) {
      float sum[16] = {};
      for (int r = 0; r < split; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float4 v = load_from_cta(&sums[(4 * piece + i) * 256 + thread], r);
          sum[4 * i] += v.x;
          sum[4 * i + 1] += v.y;
          sum[4 * i + 2] += v.z;
          sum[4 * i + 3] += v.w;
        }
      }
      if (p.out_f32) {
        store_f32(sum, static_cast<float*>(p.out) + out + 32 * piece, p.out_stride, rows, cols - 32 * piece);
      } else {
        store_bf16(sum, static_cast<__nv_bfloat16*>(p.out) + out + 32 * piece, p.out_stride, rows,
                   cols - 32 * piece);
      }
    }
    arrive_everywhere<false>(free, split);  // what was read is in use already
  }
};

}  // namespace trireme::cuda
