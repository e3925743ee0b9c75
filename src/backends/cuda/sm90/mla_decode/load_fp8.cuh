// The loading warps for an FP8 cache: one copies pages as they are, one lays out their scales.
#pragma once
#include <cuda_fp16.h>

#include "backends/cuda/sm90/mla_decode/fragment.cuh"
#include "backends/cuda/sm90/mla_decode/load.cuh"

namespace trireme::cuda::mla {

inline constexpr int kFp8PrefetchPages = 3;

__device__ __forceinline__ void prefetch_l2(const void* data, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(data), "r"(bytes) : "memory");
}

// Asks L2 for pages ahead of the one that is copied: the ring alone is too short for memory's latency.
__device__ __forceinline__ void prefetch_ahead(const Params& p, const PageWalk& walk) {
  constexpr int kBytes = kPage * kFp8Token;
  for (int ahead = walk.page == walk.first ? 1 : kFp8PrefetchPages; ahead <= kFp8PrefetchPages; ++ahead) {
    const int block = walk.block_ahead(ahead);
    if (block < 0 || walk.lane != 0) continue;
    prefetch_l2(p.cache + std::int64_t{block} * kBytes, kBytes);
  }
}

// One warp.
__device__ void load_fp8_pages(Fp8SharedMemory& s, const Params& p, const Fp8Maps& maps, const Part& part) {
  PageWalk walk(p, part);
  for (std::uint32_t count = 0; !walk.ended(); ++count, walk.next()) {
    const int row = walk.block() * kPage, at = static_cast<int>(count % kFp8Pages);
    const int owner = static_cast<int>(count & 1);
    const std::uint32_t free_parity = ((count / kFp8Pages) & 1) ^ 1;
    prefetch_ahead(p, walk);
    if (walk.lane == 0) {
      Fp8Page& page = s.pages[at];
      for (int i = 0; i < 2; ++i) {
        const int half = i ^ owner;
        Mbarrier* const full = &s.half_full[half][at];
        mbarrier_wait(&s.half_free[half][at], free_parity);
        mbarrier_arrive_expect_tx(full, (2 + i) * kFp8Box);
        for (int t = 2 * half; t < 2 * half + 2; ++t)
          tma_load_2d(page.codes[t], &maps.codes, full, t * kQuarter, row, L2Hint::evict_first);
        if (i == 0) continue;
        tma_load_2d(page.rope, &maps.rope, full, kFp8RopeByte / 2, row, L2Hint::evict_first);
        mbarrier_arrive_expect_tx(&s.scales_copied[at], sizeof(s.scales[at].copied));
        tma_load_2d(s.scales[at].copied, &maps.scales, &s.scales_copied[at], kFp8ScaleByte / 4, row,
                    L2Hint::evict_first);
      }
    }
    __syncwarp();
  }
}

// One warp: asks L2 for a unit's rows of q.
__device__ __forceinline__ void prefetch_query(const Params& p, std::int64_t first, int lane) {
#pragma unroll 1
  for (std::int64_t row = first + lane; row < min(first + kTileRows, p.q_rows); row += 32) {
    prefetch_l2(p.q_latent + row * p.q_latent_stride, kLatent * 2);
    prefetch_l2(p.q_rope + row * p.q_rope_stride, kRope * 2);
  }
}

// One warp: the scales of each page, those of tokens that do not exist 0. Lane l lays out tokens l and l
// + 32.
__device__ void lay_out_scales(Fp8SharedMemory& s, const Params& p, const Part& part) {
  const int lane = static_cast<int>(threadIdx.x) % 32, last_unit = part.last_unit();
  std::uint32_t count = 0;
  for (int u = part.begin.unit; u <= last_unit; ++u) {
    const int context = part.units[u].context, last = part.last_page(u);
    if (u < last_unit) prefetch_query(p, part.units[u + 1].row + part.tile * kTileRows, lane);
    for (int page = part.first_page(u); page < last; ++page, ++count) {
      const int at = static_cast<int>(count % kFp8Pages), valid = context - page * kPage;
      Fp8Scales& to = s.scales[at];
      mbarrier_wait(&s.scales_copied[at], (count / kFp8Pages) & 1);
      const float scale[2] = {lane < valid ? to.copied[lane][0] : 0.0f,
                              lane + 32 < valid ? to.copied[lane + 32][0] : 0.0f};
      float most = fmaxf(fmaxf(scale[0], scale[1]), 0x1p-100f);
#pragma unroll
      for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
      const float over = __fdividef(kFp8One * kFp8Shift, most);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int place = 2 * (lane / 8 + 4 * i) + lane % 2;
        to.score[lane % 8 / 2][place] = scale[i];
        to.prob[lane % 8 / 2][place] = __half_as_ushort(__float2half_rn(scale[i] * over));
      }
      if (lane == 0) to.unit = most * (1 / kFp8One);
      __syncwarp();
      if (lane == 0) mbarrier_arrive(&s.scales_full[at]);
    }
  }
}

}  // namespace trireme::cuda::mla
