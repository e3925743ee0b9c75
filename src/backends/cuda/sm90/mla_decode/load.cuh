// The loading warp of the MLA decode kernel: walks a part's units and pages ahead of the math warpgroups.
#pragma once
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/mla_decode/config.cuh"

namespace trireme::cuda::mla {

// The share of one CTA: pages of successive units.
struct Part {
  const Unit* units;
  Position begin, end;
  int index;
  int tile;  // which of the units' row tiles is this CTA's

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

// The pages of a part one after another, whatever units they belong to.
struct PageWalk {
  const Params& p;
  const Part& part;
  int unit, page = 0, last = 0, block = 0;
  const std::int32_t* table = nullptr;

  __device__ PageWalk(const Params& params, const Part& mine) : p(params), part(mine), unit(mine.begin.unit) {
    enter();
  }
  __device__ bool ended() const { return unit > part.last_unit(); }
  __device__ void enter() {
    if (ended()) return;
    page = part.first_page(unit);
    last = part.last_page(unit);
    table = p.block_table + part.units[unit].seq * p.block_table_stride;
    block = table[page];
  }
  __device__ void next() {
    if (++page < last) {
      block = table[page];
      return;
    }
    ++unit;
    enter();
  }
};

__device__ __forceinline__ void prefetch_l2(const void* data, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(data), "r"(bytes) : "memory");
}

// Asks L2 for pages before their buffers are free, so that the loads themselves are short.
struct Prefetcher {
    PageWalk walk;
  int count = 0;

  __device__ Prefetcher(const Params& p, const Part& part, bool active = true) : walk(p, part) {
    for (int i = 0; i < p.prefetch && active; ++i) step();
  }
  // The CTAs of a two-tile unit take turns.
  __device__ void step() {
    if (walk.ended() || walk.p.prefetch == 0) return;
    const Params& p = walk.p;
    if (p.layout.tiles == 1 || (count & 1) == walk.part.tile)
      prefetch_l2(p.cache + static_cast<std::int64_t>(walk.block) * p.page_bytes, p.page_bytes);
    walk.next();
    ++count;
  }
};

inline constexpr std::uint32_t kBoxBytes = kBox * 2;

// One thread: the unit's rows of q, once the math warpgroups are done with the last unit's.
__device__ __forceinline__ void load_q(SharedMemory& s, const Maps& maps, int row, std::uint32_t unit_count) {
  mbarrier_wait(&s.q_free, (unit_count & 1) ^ 1);
  mbarrier_arrive_expect_tx(&s.q_full, kBoxBytes * kBoxes);
  for (int box = 0; box < kRopeBox; ++box) tma_load_2d(s.q[box], &maps.q_latent, &s.q_full, box * 64, row);
  tma_load_2d(s.q[kRopeBox], &maps.q_rope, &s.q_full, 0, row);
}

// One thread: everything of a BF16 cache.
__device__ void load_pages(SharedMemory& s, const Params& p, const Maps& maps, const Part& part) {
  const auto load_box = [&](int buffer, int box, int row) {
    mbarrier_arrive_expect_tx(&s.k_full[buffer][box], kBoxBytes);
    tma_load_2d(s.k[buffer][box], &maps.cache, &s.k_full[buffer][box], box * 64, row,
                p.evict ? L2Hint::evict_first : L2Hint::normal);
  };
  PageWalk walk(p, part);
  Prefetcher prefetcher(p, part);
  std::uint32_t unit_count = 0;
  int unit = -1;
  for (std::uint32_t count = 0; !walk.ended(); ++count) {
    if (walk.unit != unit) {
      unit = walk.unit;
      load_q(s, maps, part.units[unit].row + part.tile * kTileRows, unit_count++);
    }
    const int row = walk.block * kPage;
    walk.next();
    const int buffer = static_cast<int>(count & 1);
    const std::uint32_t free_parity = ((count >> 1) & 1) ^ 1;
    mbarrier_wait(&s.k_rope_free[buffer], free_parity);
    load_box(buffer, kRopeBox, row);
    for (int i = 0; i < 2; ++i) {
      const int half = i ^ buffer;  // the owner's own half is free first, and its scores start there
      mbarrier_wait(&s.k_half_free[buffer][half], free_parity);
      for (int box = half * 4; box < half * 4 + 4; ++box) load_box(buffer, box, row);
    }
    prefetcher.step();
  }
}

}  // namespace trireme::cuda::mla
