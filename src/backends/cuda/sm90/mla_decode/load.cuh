// The loading warp of the MLA decode kernel: walks a part's units and pages ahead of the math warpgroups.
#pragma once
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/mla_decode/config.cuh"

namespace trireme::cuda::mla {

struct Part {
  const Unit* units;
  Position begin, end;
  int index;
  int tile;  // which of the unit's row tiles is this CTA's

  // Pages of the unit that belong to this part.
  __device__ int first_page(int unit) const { return unit == begin.unit ? begin.page : 0; }
  __device__ int last_page(int unit) const { return unit == end.unit ? end.page : units[unit].pages; }
  __device__ int last_unit() const { return end.page > 0 ? end.unit : end.unit - 1; }  // inclusive
};

__device__ __forceinline__ Part make_part(const Params& p) {
  const Position* begins = reinterpret_cast<const Position*>(p.plan + p.layout.begins_at());
  Part part;
  part.index = static_cast<int>(blockIdx.x) / p.layout.tiles;
  part.tile = static_cast<int>(blockIdx.x) % p.layout.tiles;
  part.units = reinterpret_cast<const Unit*>(p.plan + p.layout.units_at());
  part.begin = begins[part.index];
  part.end = begins[part.index + 1];
  return part;
}

// The two CTAs of a kPaired cluster read the same pages: each loads half of the boxes into both.
template <bool kPaired>
__device__ void load_pages(SharedMemory& s, const Params& p, const Maps& maps, const Part& part) {
  constexpr std::uint32_t kBoxBytes = kBox * 2;
  const auto load_box = [&](int buffer, int box, int row, bool mine) {
    mbarrier_arrive_expect_tx(&s.k_full[buffer][box], kBoxBytes);
    if constexpr (kPaired) {
      if (mine)
        tma_load_2d_multicast(s.k[buffer][box], &maps.cache, &s.k_full[buffer][box], 3, box * 64, row,
                              L2Hint::evict_first);
    } else {
      tma_load_2d(s.k[buffer][box], &maps.cache, &s.k_full[buffer][box], box * 64, row, L2Hint::evict_first);
    }
  };
  const auto wait_free = [](Mbarrier* bar, std::uint32_t parity) {
    if constexpr (kPaired)
      mbarrier_wait_cluster(bar, parity);
    else
      mbarrier_wait(bar, parity);
  };

  std::uint32_t page_count = 0, unit_count = 0;
  for (int u = part.begin.unit; u <= part.last_unit(); ++u, ++unit_count) {
    const Unit unit = part.units[u];
    const std::int32_t* const table = p.block_table + unit.seq * p.block_table_stride;
    const int first = part.first_page(u), last = part.last_page(u);
    int block = table[first];

    const int q_row = unit.row + part.tile * kTileRows;
    mbarrier_wait(&s.q_free, (unit_count & 1) ^ 1);
    mbarrier_arrive_expect_tx(&s.q_full, kBoxBytes * (kBoxes - 1));
    for (int box = 0; box < kRopeBox; ++box) tma_load_2d(s.q[box], &maps.q_latent, &s.q_full, box * 64, q_row);

    for (int page = first; page < last; ++page, ++page_count) {
      const int row = block * kPage;
      if (page + 1 < last) block = table[page + 1];
      const int buffer = static_cast<int>(page_count & 1);
      const std::uint32_t free_parity = ((page_count >> 1) & 1) ^ 1;
      wait_free(&s.k_rope_free[buffer], free_parity);
      load_box(buffer, kRopeBox, row, part.tile == (page & 1));
      for (int half = 0; half < 2; ++half) {
        wait_free(&s.k_half_free[buffer][half], free_parity);
        for (int box = half * 4; box < half * 4 + 4; ++box) load_box(buffer, box, row, part.tile == (box & 1));
      }
      if (page == first) {
        mbarrier_wait(&s.q_rope_free, (unit_count & 1) ^ 1);
        mbarrier_arrive_expect_tx(&s.q_rope_full, kBoxBytes);
        tma_load_2d(s.q[kRopeBox], &maps.q_rope, &s.q_rope_full, 0, q_row);
      }
    }
  }
}

}  // namespace trireme::cuda::mla
