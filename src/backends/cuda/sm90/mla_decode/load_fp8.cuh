// The loading warps for an FP8 cache: one copies pages as they are, one rows of q.
#pragma once
#include "backends/cuda/sm90/mla_decode/load.cuh"

namespace trireme::cuda::mla {

// One warp: each unit's rows of q, once the scores of the unit before are done.
__device__ void load_fp8_queries(Fp8SharedMemory& s, const Params& p, const Fp8Maps& maps, const Part& part) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Start start = load_start(p, part);
  const auto load = [&](int unit_row, std::uint32_t count) {
    const int row = unit_row + part.tile * kTileRows;
    float scale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      scale[i] = row + lane + 32 * i < p.q_rows ? p.q_scale[row + lane + 32 * i] : 0;
    mbarrier_wait(&s.q_free, (count & 1) ^ 1);
    if (lane == 0) {  // ahead of their barrier's arrival, which scales that are still to come need
      for (int t = 0; t < kQuarters; ++t) tma_load_2d(s.q[t], &maps.q_codes, &s.q_full, t * kQuarter, row);
      tma_load_2d(s.q_rope, &maps.q_rope, &s.q_full, kFp8RopeByte / 2, row);
    }
    s.q_scale[lane] = scale[0];
    s.q_scale[lane + 32] = scale[1];
    if (lane == 0)
      mbarrier_arrive_expect_tx(&s.q_full, (kQuarters + 1) * kFp8Box);
    else
      mbarrier_arrive(&s.q_full);
    __syncwarp();
  };
  if (start.pages == 0) return;
  load(start.row, 0);
  std::uint32_t count = 1;
  for (int u = part.begin.unit + 1, last = part.last_unit(); u <= last; ++u, ++count)
    load(part.units[u].row, count);
}

// One warp.
__device__ void load_fp8_pages(Fp8SharedMemory& s, const Params& p, const Fp8Maps& maps, const Part& part) {
  const auto load = [&](std::uint32_t count, int number, int block) {
    const int row = block * kPage, at = static_cast<int>(count % kFp8Pages), owner = number & 1;
    const std::uint32_t free_parity = ((count / kFp8Pages) & 1) ^ 1;
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
  };
  constexpr int kEarly = 2;  // more would delay rows of q
  static_assert(kEarly <= kStartPages && kEarly <= kFp8Pages);
  const Start start = load_start(p, part);
  if (start.pages == 0) return;
  const int early = min(start.pages, kEarly);
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < kEarly; ++i)
      if (i < early) load(static_cast<std::uint32_t>(i), start.page + i, start.block[i]);
  }
  __syncwarp();
  PageWalk walk(p, part);
  for (std::uint32_t count = 0; !walk.ended(); ++count, walk.next()) {
    const int block = walk.block();
    if (walk.lane == 0 && count >= static_cast<std::uint32_t>(early)) load(count, walk.page, block);
    __syncwarp();
  }
}

}  // namespace trireme::cuda::mla
