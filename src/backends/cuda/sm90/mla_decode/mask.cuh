// Which tokens of a page the rows of a tile see.
#pragma once
#include <cstdint>

#include "backends/cuda/sm90/mla_decode/config.cuh"

namespace trireme::cuda::mla {

// The first column that some row of a tile does not see, counted from the start of the context. row: the
// tile's first, of the sequence's.
__device__ __forceinline__ int first_hidden(const Params& p, const Unit& unit, int row) {
  return p.tree_mask != nullptr ? unit.base : unit.base + row / p.heads + 1;
}

// Scores that a row does not see become -inf. score: 64 rows by the page's 64 tokens as wgmma leaves them;
// row: this thread's first of the sequence's, the other 8 below. With a tree, bits of new tokens decide.
__device__ __forceinline__ void mask_scores(float (&score)[32], const Params& p, const Unit& unit, int row,
                                            int page) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = (row + r * 8) / p.heads;
    const bool real = row + r * 8 < unit.local + unit.rows;
    int limit = min(unit.base + token + 1, unit.context) - page * kPage;
    std::uint64_t seen = 0;
    int new_at = 1 << 30;
    if (p.tree_mask != nullptr) {
      seen = real ? p.tree_mask[unit.token + token] : 0;
      new_at = unit.base - page * kPage;
      limit = unit.context - page * kPage;
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int column = (i / 2) * 8 + (lane & 3) * 2 + (i & 1);
      const bool hidden = column >= limit || (column >= new_at && (seen >> (column - new_at) & 1) == 0);
      float& x = score[(i / 2) * 4 + r * 2 + (i & 1)];
      if (hidden) x = -INFINITY;
    }
  }
}

}  // namespace trireme::cuda::mla
