#pragma once
// What a math warpgroup does with a tile: multiply the stages as they arrive, release them, store.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda {

template <class C>
struct GemmSmem;
template <int kStages>
struct RingPlace;

// This warp has read its part of the stage; tells the producers of all CTAs that write to it.
__device__ __forceinline__ void release_stage(Mbarrier* empty, int cluster) {
  const std::uint32_t lane = threadIdx.x % 32;
  if (cluster == 2) {
    if (lane < 2) mbarrier_arrive_cluster_relaxed(empty, lane);
  } else if (lane == 0) {
    mbarrier_arrive(empty);
  }
}

// The scales of a tile's weights, at most two rows of blocks, 32 blocks of K at a time: lane l holds block l.
struct WeightScales {
  const float* row[2];
  int k_blocks;
  float now[2], next[2];

  __device__ void begin(const GemmParams& p, int expert, int col) {
    const int blocks = (p.n + 127) / 128;
    const float* all = p.w_scale + static_cast<std::int64_t>(expert) * blocks * p.w_scale_stride;
    const int first = min(col / 128, blocks - 1);
    row[0] = all + static_cast<std::int64_t>(first) * p.w_scale_stride;
    row[1] = all + static_cast<std::int64_t>(min(first + 1, blocks - 1)) * p.w_scale_stride;
    k_blocks = p.k_blocks;
    load(0);
  }
  __device__ void load(int from) {
    const int kb = min(from + static_cast<int>(threadIdx.x) % 32, k_blocks - 1);
    next[0] = __ldg(row[0] + kb);
    next[1] = __ldg(row[1] + kb);
  }
  // Before block kb, in order: keeps the following 32 on their way.
  __device__ void step(int kb) {
    if (kb % 32 != 0) return;
    now[0] = next[0];
    now[1] = next[1];
    if (kb + 32 < k_blocks) load(kb + 32);
  }
};

// FP8: the tensor core's sums keep few bits, so a step of 128 starts from zero and is added in float32,
// scaled.
template <class C>
__device__ __forceinline__ void multiply_fp8(float (&acc)[C::kMi][C::kWn / 2], const GemmParams& p,
                                             const GemmSmem<C>& smem, RingPlace<C::kStages>& at,
                                             WeightScales& scales, int wg_row, int wg_col,
                                             int cols_of_first_scale) {
  const int row =
      wg_row + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  constexpr bool kOneScale = 128 % C::kWn == 0;
  for (int kb = 0; kb < p.k_blocks; ++kb, at.advance()) {
    scales.step(kb);
    const float sw0 = __shfl_sync(~0u, scales.now[0], kb % 32);
    const float sw1 = kOneScale ? sw0 : __shfl_sync(~0u, scales.now[1], kb % 32);
    mbarrier_wait(&smem.full[at.stage], at.parity);
    const float* sx = smem.scale + at.stage * C::kBm;
    const std::uint64_t w =
        wgmma_operand(smem_address(smem.w + at.stage * C::kWBytes + wg_col * C::kRowBytes));
#pragma unroll
    for (int mi = 0; mi < C::kMi; ++mi) {
      const float sx0 = sx[row + 64 * mi], sx1 = sx[row + 64 * mi + 8];
      const std::uint64_t x =
          wgmma_operand(smem_address(smem.x + at.stage * C::kXBytes + (wg_row + 64 * mi) * C::kRowBytes));
      float part[C::kWn / 2];
      wgmma_batch_begin();
#pragma unroll
      for (int i = 0; i < 4; ++i) wgmma_ss_e4m3<C::kWn>(part, x + 2 * i, w + 2 * i, i > 0);
      wgmma_batch_commit();
      wgmma_batch_wait<0>();
      if (mi == C::kMi - 1) release_stage(&smem.empty[at.stage], p.cluster);
      const float s00 = sx0 * sw0, s10 = sx1 * sw0, s01 = sx0 * sw1, s11 = sx1 * sw1;
#pragma unroll
      for (int j = 0; j < C::kWn / 8; ++j) {
        const bool first = kOneScale || 8 * j < cols_of_first_scale;
        const float s0 = first ? s00 : s01, s1 = first ? s10 : s11;
        acc[mi][4 * j] += s0 * part[4 * j];
        acc[mi][4 * j + 1] += s0 * part[4 * j + 1];
        acc[mi][4 * j + 2] += s1 * part[4 * j + 2];
        acc[mi][4 * j + 3] += s1 * part[4 * j + 3];
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void multiply_bf16(float (&acc)[C::kMi][C::kWn / 2], const GemmParams& p,
                                              const GemmSmem<C>& smem, RingPlace<C::kStages>& at, int wg_row,
                                              int wg_col) {
  Mbarrier* last = nullptr;
  for (int kb = 0; kb < p.k_blocks; ++kb, at.advance()) {
    mbarrier_wait(&smem.full[at.stage], at.parity);
    const std::uint64_t w =
        wgmma_operand(smem_address(smem.w + at.stage * C::kWBytes + wg_col * C::kRowBytes));
    wgmma_batch_begin();
#pragma unroll
    for (int mi = 0; mi < C::kMi; ++mi) {
      const std::uint64_t x =
          wgmma_operand(smem_address(smem.x + at.stage * C::kXBytes + (wg_row + 64 * mi) * C::kRowBytes));
#pragma unroll
      for (int i = 0; i < 4; ++i) wgmma_ss_bf16<C::kWn>(acc[mi], x + 2 * i, w + 2 * i, true);
    }
    wgmma_batch_commit();
    wgmma_batch_wait<1>();
    if (last != nullptr) release_stage(last, p.cluster);
    last = &smem.empty[at.stage];
  }
  wgmma_batch_wait<0>();
  release_stage(last, p.cluster);
}

template <class C>
__device__ __forceinline__ void skip(const GemmParams& p, const GemmSmem<C>& smem,
                                     RingPlace<C::kStages>& at) {
  for (int kb = 0; kb < p.k_blocks; ++kb, at.advance()) {
    mbarrier_wait(&smem.full[at.stage], at.parity);
    release_stage(&smem.empty[at.stage], p.cluster);
  }
}

template <class C>
__device__ __forceinline__ void multiply(const GemmParams& p, const GemmSmem<C>& smem, int rank) {
  const int wg = static_cast<int>(threadIdx.x) / 128 - 1;
  const int wg_row = C::kWgM == 2 ? wg * 64 * C::kMi : 0;
  const int wg_col = C::kWgM == 2 ? 0 : wg * C::kWn;
  TileWalk<C::kBm, C::kBn> walk(p);
  RingPlace<C::kStages> at;
  WeightScales scales;
  GemmTilePlace tile;
  bool more = walk.next(tile);
  if constexpr (C::kFp8) {
    if (more) scales.begin(p, tile.expert, tile.col + rank * C::kBn + wg_col);
  }
  while (more) {
    const int col = tile.col + rank * C::kBn + wg_col;
    const int rows = tile.rows - wg_row, cols = p.n - col;
    const std::int64_t first = static_cast<std::int64_t>(tile.row + wg_row) * p.out_stride + col;
    float acc[C::kMi][C::kWn / 2] = {};
    const bool any = rows > 0 && cols > 0;
    if (!any) {
      skip<C>(p, smem, at);
    } else if constexpr (C::kFp8) {
      multiply_fp8<C>(acc, p, smem, at, scales, wg_row, wg_col, 128 - col % 128);
    } else {
      multiply_bf16<C>(acc, p, smem, at, wg_row, wg_col);
    }
    more = walk.next(tile);
    if constexpr (C::kFp8) {
      // On their way while this tile is stored.
      if (more) scales.begin(p, tile.expert, tile.col + rank * C::kBn + wg_col);
    }
    if (!any) continue;
#pragma unroll
    for (int mi = 0; mi < C::kMi; ++mi) {
      const std::int64_t offset = first + 64 * mi * p.out_stride;
      if (p.out_f32) {
        store_f32(acc[mi], static_cast<float*>(p.out) + offset, p.out_stride, rows - 64 * mi, cols);
      } else {
        store_bf16(acc[mi], static_cast<__nv_bfloat16*>(p.out) + offset, p.out_stride, rows - 64 * mi, cols);
      }
    }
  }
}

}  // namespace trireme::cuda
