#pragma once
// Which steps of K of which tiles a CTA of the thin kernel multiplies: a run of consecutive ones, from counts
// on the device. Tiles of the same weights, of an expert with more tokens than a tile has, follow each other.

#include <cstdint>

#include "backends/cuda/sm90/gemm/gemm.h"
#include "backends/cuda/sm90/gemm/split_sum.cuh"

namespace trireme::cuda {

struct ThinParams {
  RowLayout layout;
  int experts;
  const std::int32_t* counts;  // see GemmRows
  int rows, max_m;
  int n, k_blocks;       // k_blocks: steps of 128
  const float* w_scale;  // [experts][ceil(n/128)][w_scale_stride]
  int w_scale_stride;
  void* out;                // [rows, n]
  std::int64_t out_stride;  // elements
  bool out_f32;
  GemmFinish finish;
  int least_steps;      // tiles may be shared, a CTA takes at least so many steps; 0: none is
  SplitSumPlace split;  // where they are
};

// Consecutive steps of K of one tile.
struct alignas(16) ThinPiece {
  int expert;
  int row;             // of x, the tile's first token
  int rows;            // of this expert from there on, at least 1; may exceed the tile
  int col;             // the tile's first row of the weights of this expert
  int k, steps;        // steps 0: there are no more pieces
  bool weights_again;  // other tiles read the same weights
  SplitShare share;    // where steps are not all of the tile's
};

// The pieces of this CTA, for one converged warp. Lane l holds expert l of a chunk of 32.
template <int kTokens, int kWeights>
class ThinWalk {
 public:
  // Reads the counts, where there are any.
  __device__ explicit ThinWalk(const ThinParams& p)
      : p_(p), lane_(static_cast<int>(threadIdx.x) % 32), n_blocks_((p.n + kWeights - 1) / kWeights) {
    int tiles;
    if (p.experts == 1) {
      tiles = tiles_of(count_of(0));
    } else {
      int last = 0;
      tiles = 0;
      for (int e = lane_; e - lane_ < p.experts; e += 32) tiles += tiles_of(lane_rows(e, last).count);
      for (int d = 16; d > 0; d /= 2) tiles += __shfl_xor_sync(~0u, tiles, d);
    }
    const bool shared = p.least_steps > 0;
    const std::uint32_t k_blocks = static_cast<std::uint32_t>(p.k_blocks);
    const std::uint32_t units = static_cast<std::uint32_t>(tiles) * (shared ? k_blocks : 1);
    std::uint32_t ctas = gridDim.x;
    if (shared) ctas = min(ctas, max(units / static_cast<std::uint32_t>(p.least_steps), 1u));
    runs_ = SplitRuns(units, ctas);
    if (blockIdx.x >= ctas) return;
    at_ = runs_.begin(blockIdx.x) * (shared ? 1 : k_blocks);
    end_ = runs_.begin(blockIdx.x + 1) * (shared ? 1 : k_blocks);
    tile_ = static_cast<int>(at_ / k_blocks);
  }

  __device__ ThinPiece next() {
    ThinPiece piece = {};
    if (at_ >= end_) return piece;
    while (tile_ >= chunk_end_) load_chunk();
    const int local = tile_ - chunk_begin_;
    const int e = __popc(__ballot_sync(~0u, through_ <= local));
    const int before = __shfl_sync(~0u, through_, e == 0 ? 0 : e - 1);
    const int start = __shfl_sync(~0u, start_, e);
    const int count = __shfl_sync(~0u, count_, e);
    const int t = local - (e == 0 ? 0 : before);
    const int token_tiles = (count + kTokens - 1) / kTokens;
    const int block_n = t / token_tiles, block_m = t - block_n * token_tiles;
    piece.expert = chunk_ - 32 + e;
    piece.row = start + block_m * kTokens;
    piece.rows = count - block_m * kTokens;
    piece.col = block_n * kWeights;
    piece.weights_again = token_tiles > 1;
    const auto k_blocks = static_cast<std::uint32_t>(p_.k_blocks);
    const std::uint32_t begin = static_cast<std::uint32_t>(tile_) * k_blocks;
    piece.k = static_cast<int>(at_ - begin);
    piece.steps = min(p_.k_blocks - piece.k, static_cast<int>(end_ - at_));
    if (piece.steps < p_.k_blocks) piece.share = share_of(runs_, begin, k_blocks);
    at_ += static_cast<std::uint32_t>(piece.steps);
    ++tile_;
    return piece;
  }

 private:
  struct Rows {
    int start, count;
  };

  __device__ int tiles_of(int count) const { return (count + kTokens - 1) / kTokens * n_blocks_; }

  // Dense and masked.
  __device__ int count_of(int e) const {
    const bool masked = p_.layout == RowLayout::masked;
    const int most = masked ? p_.max_m : p_.rows;
    return p_.counts == nullptr ? most : max(min(p_.counts[e], most), 0);
  }

  // Of expert e, lane_ of its chunk. last: where the chunk before ended, and then where this one does.
  __device__ Rows lane_rows(int e, int& last) const {
    const bool exists = e < p_.experts;
    if (p_.layout == RowLayout::packed) {
      const int end = exists ? min(p_.counts[e], p_.rows) : 0;
      int start = __shfl_up_sync(~0u, end, 1);
      if (lane_ == 0) start = last;
      last = __shfl_sync(~0u, end, 31);
      return {start, exists ? max(end - start, 0) : 0};
    }
    return {p_.layout == RowLayout::masked ? e * p_.max_m : 0, exists ? count_of(e) : 0};
  }

  __device__ void load_chunk() {
    const bool one = p_.experts == 1;  // all lanes hold it
    const Rows r = one ? Rows{0, count_of(0)} : lane_rows(chunk_ + lane_, last_end_);
    start_ = r.start;
    count_ = r.count;
    through_ = tiles_of(count_);
    for (int d = 1; d < 32 && !one; d *= 2) {
      const int below = __shfl_up_sync(~0u, through_, d);
      if (lane_ >= d) through_ += below;
    }
    chunk_ += 32;
    chunk_begin_ = chunk_end_;
    chunk_end_ += __shfl_sync(~0u, through_, 31);
  }

  const ThinParams& p_;
  const int lane_, n_blocks_;
  SplitRuns runs_ = SplitRuns(1, 1);
  std::uint32_t at_ = 0, end_ = 0;  // steps: the next, and this CTA's end
  int tile_ = 0;
  int chunk_ = 0;                        // experts loaded so far
  int chunk_begin_ = 0, chunk_end_ = 0;  // tiles before the chunk's, and through them
  int start_ = 0, count_ = 0,
      through_ = 0;  // this lane's expert: first row, rows, tiles through it within the chunk
  int last_end_ = 0;
};

}  // namespace trireme::cuda
