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

__device__ __forceinline__ Start load_start(const Params& p, const Part& part) {
  const auto* const at = reinterpret_cast<const int4*>(p.plan + p.layout.starts_at()) + 2 * part.index;
  const int4 what = at[0], block = at[1];
  return {what.x, what.y, what.z, 0, {block.x, block.y, block.z, block.w}};
}

// Of a piece of unit u among the partial results: the first row of this CTA's tile.
__device__ __forceinline__ std::int64_t slot_row(const Params& p, const Part& part, int u) {
  const int which = u == part.begin.unit && part.begin.page > 0 ? 0 : 1;
  return static_cast<std::int64_t>((part.index * 2 + which) * p.layout.tiles + part.tile) * kTileRows;
}

// The pages of a part one after another, whatever units they belong to. A warp walks together: its lanes hold
// what the next 32 units and the next 32 pages need, so that no step waits for memory.
struct PageWalk {
  const Params& p;
  const Part& part;
  const int last_unit, lane;
  int unit, page = 0, last = 0, first = 0;
  const std::int32_t* table = nullptr;
  // Of unit `batch` + lane.
  int batch = 0, unit_seq = 0, unit_row = 0, unit_last = 0, unit_block = 0;
  // Blocks of pages `run` + lane, and 32 on.
  int run = 0, blocks = 0, blocks_next = 0;

  __device__ PageWalk(const Params& params, const Part& mine)
      : p(params),
        part(mine),
        last_unit(mine.last_unit()),
        lane(static_cast<int>(threadIdx.x) % 32),
        unit(mine.begin.unit) {
    load_batch();
    enter();
  }
  __device__ __forceinline__ bool ended() const { return unit > last_unit; }
  // Of q: the first of this CTA's tile.
  __device__ __forceinline__ int q_row() const {
    return __shfl_sync(~0u, unit_row, unit - batch) + part.tile * kTileRows;
  }
  __device__ __forceinline__ int block() const {
    const int later = __shfl_sync(~0u, blocks, (page - run) & 31);
    const int at_first = __shfl_sync(~0u, unit_block, (unit - batch) & 31);
    return page == first ? at_first : later;
  }
  __device__ __forceinline__ void next() {
    if (++page == last) {
      if (++unit > last_unit) return;
      if (unit - batch == 32) load_batch();
      enter();
    } else if (page - run == 32) {
      run = page;
      blocks = blocks_next;
      load_next_run();
    }
  }

 private:
  __device__ __forceinline__ void load_batch() {
    batch = unit;
    const int mine = unit + lane;
    if (mine > last_unit) return;
    const Unit& u = part.units[mine];
    unit_seq = u.seq;
    unit_row = u.row;
    unit_last = part.last_page(mine);
    unit_block = p.block_table[unit_seq * p.block_table_stride + part.first_page(mine)];
  }
  __device__ __forceinline__ void enter() {
    first = page = run = part.first_page(unit);
    last = __shfl_sync(~0u, unit_last, unit - batch);
    table = p.block_table + __shfl_sync(~0u, unit_seq, unit - batch) * p.block_table_stride;
    if (run + lane < last) blocks = table[run + lane];
    load_next_run();
  }
  __device__ __forceinline__ void load_next_run() {
    if (run + 32 + lane < last) blocks_next = table[run + 32 + lane];
  }
};

inline constexpr std::uint32_t kBoxBytes = kBox * 2;

// One thread: rows of q from `row` on, once the math warpgroups are done with the last unit's.
__device__ __forceinline__ void load_q(SharedMemory& s, const Maps& maps, int row, std::uint32_t unit_count) {
  mbarrier_wait(&s.q_free, (unit_count & 1) ^ 1);
  mbarrier_arrive_expect_tx(&s.q_full, kBoxBytes * kBoxes);
  for (int box = 0; box < kRopeBox; ++box) tma_load_2d(s.q[box], &maps.q_latent, &s.q_full, box * 64, row);
  tma_load_2d(s.q[kRopeBox], &maps.q_rope, &s.q_full, 0, row);
}

// One warp: everything of a BF16 cache.
__device__ void load_pages(SharedMemory& s, const Params& p, const Maps& maps, const Part& part) {
  constexpr int kBuffers = 2;
  const auto load_box = [&](int buffer, int box, int row) {
    mbarrier_arrive_expect_tx(&s.k_full[buffer][box], kBoxBytes);
    tma_load_2d(s.k[buffer][box], &maps.cache, &s.k_full[buffer][box], box * 64, row, L2Hint::evict_first);
  };
  const auto load_page = [&](std::uint32_t count, int page, int block) {
    const int row = block * kPage, buffer = static_cast<int>(count & 1);
    const std::uint32_t free_parity = ((count >> 1) & 1) ^ 1;
    mbarrier_wait(&s.k_rope_free[buffer], free_parity);
    load_box(buffer, kRopeBox, row);
    for (int i = 0; i < 2; ++i) {
      const int half = i ^ (page & 1);  // the owner's own half is free first, and its scores start there
      mbarrier_wait(&s.k_half_free[buffer][half], free_parity);
      for (int box = half * 4; box < half * 4 + 4; ++box) load_box(buffer, box, row);
    }
  };
  const Start start = load_start(p, part);
  if (start.pages == 0) return;
  const auto early = static_cast<std::uint32_t>(min(start.pages, kBuffers));
  if (threadIdx.x % 32 == 0) {
    load_q(s, maps, start.row + part.tile * kTileRows, 0);
    load_page(0, start.page, start.block[0]);
    if (early > 1) load_page(1, start.page + 1, start.block[1]);
  }
  __syncwarp();
  PageWalk walk(p, part);
  std::uint32_t unit_count = 0;
  int unit = walk.unit;
  for (std::uint32_t count = 0; !walk.ended(); ++count, walk.next()) {
    const int block = walk.block(), q_row = walk.q_row();
    if (walk.unit != unit) ++unit_count;
    if (walk.lane == 0 && count >= early) {
      if (walk.unit != unit) load_q(s, maps, q_row, unit_count);
      load_page(count, walk.page, block);
    }
    unit = walk.unit;
    __syncwarp();
  }
}

}  // namespace trireme::cuda::mla
