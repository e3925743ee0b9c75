#pragma once
// CTAs of a cluster that took a slice of the K of one tile each: every one leaves its sums in its shared
// memory, then adds up and stores its share of the tile's columns, in the order of K. Where the tiles fit the
// chip several times over this is half as long as meeting in global memory (split_sum.cuh): all add, none
// comes last.

#include "backends/cuda/prim/cluster_memory.cuh"
#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"

namespace trireme::cuda {

template <class C>
struct GemmSmem;

// Every math warp of the cluster, once: the sums take the place of the ring of stages. acc: of 64 rows, which
// may not exist.
template <class C>
__device__ __forceinline__ void gather(const float (&acc)[C::kBn / 2], const GemmParams& p,
                                       const GemmTilePlace& tile, const GemmSmem<C>& smem, int warp) {
  constexpr int kGroups = C::kBn / 8, kPairs = kGroups / 2;  // of 8 columns, and of 16
  constexpr std::uint32_t kThreads = 32 * C::kMathWarps;
  static_assert(kThreads * kGroups * 16 <= C::kStages * (C::kXBytes + C::kWBytes));
  const std::uint32_t none = always_zero(p);
  const int rows = tile.rows - warp / 4 * 64, row = tile.row + warp / 4 * 64;
  float4* const mine =
      reinterpret_cast<float4*>(smem.x) + warp * kGroups * 32 + static_cast<int>(threadIdx.x) % 32;
  named_barrier_sync(1, kThreads);  // nobody reads a stage any more
  if (rows > 0) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      mine[32 * g] = make_float4(elsewhere(acc[4 * g], none), elsewhere(acc[4 * g + 1], none),
                                 elsewhere(acc[4 * g + 2], none), elsewhere(acc[4 * g + 3], none));
    }
  }
  named_barrier_sync(1, kThreads);
  const int to = static_cast<int>(threadIdx.x) % kThreads;
  if (to < p.split) mbarrier_arrive_cluster(smem.gathered, static_cast<std::uint32_t>(to));
  mbarrier_wait_cluster(smem.gathered, 0);
  if (rows <= 0) return;
  const int rank = static_cast<int>(cluster_cta_rank());
#pragma unroll 1
  for (int i = kPairs * rank / p.split; i < kPairs * (rank + 1) / p.split; ++i) {
    const int col = tile.col + 16 * i, cols = p.n - col;
    if (cols <= 0) return;
    float sum[8] = {};
#pragma unroll 4
    for (int from = 0; from < p.split; ++from) {
      const std::uint32_t there = cluster_address(mine + 64 * i, static_cast<std::uint32_t>(from));
      const float4 a = load_cluster(there), b = load_cluster(there + 512);
      sum[0] += a.x, sum[1] += a.y, sum[2] += a.z, sum[3] += a.w;
      sum[4] += b.x, sum[5] += b.y, sum[6] += b.z, sum[7] += b.w;
    }
    finish<8>(sum, p, row, col, rows, cols);
    const std::int64_t at = static_cast<std::int64_t>(row) * p.out_stride + col;
    if (p.out_f32) {
      store_f32<8>(sum, static_cast<float*>(p.out) + at, p.out_stride, rows, cols, none);
    } else {
      store_bf16<8>(sum, static_cast<__nv_bfloat16*>(p.out) + at, p.out_stride, rows, cols);
    }
  }
}

}  // namespace trireme::cuda
