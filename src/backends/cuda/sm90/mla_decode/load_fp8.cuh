// The loading warp for an FP8 cache: it copies pages as they are.
#pragma once
#include "backends/cuda/sm90/mla_decode/fragment.cuh"
#include "backends/cuda/sm90/mla_decode/load.cuh"

namespace trireme::cuda::mla {

__device__ __forceinline__ void prefetch_l2(const void* data, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(data), "r"(bytes) : "memory");
}

// One warp: asks L2 for a unit's rows of q.
__device__ __forceinline__ void prefetch_query(const Params& p, std::int64_t first, int lane) {
#pragma unroll 1
  for (std::int64_t row = first + lane; row < min(first + kTileRows, p.q_rows); row += 32) {
    prefetch_l2(p.q_latent + row * p.q_latent_stride, kLatent * 2);
    prefetch_l2(p.q_rope + row * p.q_rope_stride, kRope * 2);
  }
}

// One warp.
__device__ void load_fp8_pages(Fp8SharedMemory& s, const Params& p, const Fp8Maps& maps, const Part& part) {
  PageWalk walk(p, part);
  if (!walk.ended()) prefetch_query(p, walk.q_row(), walk.lane);
  for (std::uint32_t count = 0; !walk.ended(); ++count, walk.next()) {
    const int row = walk.block() * kPage, at = static_cast<int>(count % kFp8Pages);
    const int owner = walk.page & 1;
    if (walk.page == walk.first && walk.next_q_row() >= 0) prefetch_query(p, walk.next_q_row(), walk.lane);
    const std::uint32_t free_parity = ((count / kFp8Pages) & 1) ^ 1;
    if (walk.lane == 0) {
      Fp8Page& page = s.pages[at];
      for (int i = 0; i < 2; ++i) {
        const int half = i ^ owner;
        Mbarrier* const full = &s.half_full[half][at];
        mbarrier_wait(&s.half_free[half][at], free_parity);
        mbarrier_arrive_expect_tx(full, (3 - i) * kFp8Box);
        for (int t = 2 * half; t < 2 * half + 2; ++t)
          tma_load_2d(page.codes[t], &maps.codes, full, t * kQuarter, row, L2Hint::evict_first);
        if (i == 0) tma_load_2d(page.rope, &maps.rope, full, kFp8RopeByte / 2, row, L2Hint::evict_first);
      }
    }
    __syncwarp();
  }
}

}  // namespace trireme::cuda::mla
