#pragma once
// The order in which the persistent CTAs take tiles, from counts on the device.

#include <cstdint>

#include "backends/cuda/sm90/gemm/gemm.h"
#include "backends/cuda/sm90/gemm/split_sum.cuh"

namespace trireme::cuda {

// How CTAs share the K of a tile: not at all; the last tiles, which meet in global memory (split_sum.cuh);
// all tiles, in clusters (gather.cuh).
enum class TileShare : std::uint8_t { none, meet, gather };

struct GemmParams {
  RowLayout layout;
  int experts;
  const std::int32_t* counts;  // see GemmRows
  int rows, max_m;
  int n, k_blocks;       // k_blocks: 128-byte steps of K
  const float* w_scale;  // [experts][ceil(n/128)][w_scale_stride]; FP8 only
  int w_scale_stride;
  void* out;                // [rows, n]
  std::int64_t out_stride;  // elements
  bool out_f32;
  int split;    // consecutive CTAs that get the same tiles
  int group_m;  // row blocks that go over all of n together: their x and the columns in flight fit L2

  // What results are finished with, each or none: times row_weight[row], plus bias[col], plus residual[row,
  // col].
  const float* row_weight;       // [rows]
  const float* bias;             // [n]
  const void* residual;          // [rows, n] of out's type
  std::int64_t residual_stride;  // elements

  // Where the last tiles are fewer than half of the CTAs, these share them by their K, split_least steps each
  // at least; 0: never.
  int split_least;
  SplitSumPlace split_place;

  // Counts the tiles that CTAs took as they came free; zero, and left zero. Null: each takes every n-th.
  std::uint32_t* taken;
};

struct alignas(16) GemmTilePlace {
  int expert;
  int row;   // of x, the tile's first
  int rows;  // of this expert from there on, at least 1; may exceed the tile
  int col;   // of the output, the tile's first
};

// Every warp of a CTA walks for itself, converged, and all see the same tiles. Lane l holds expert l of a
// chunk of 32, so finding the next tile costs a ballot and a few shuffles however many experts there are.
template <int kBm, int kBn>
class TileWalk {
 public:
  __device__ explicit TileWalk(const GemmParams& p)
      : p_(p),
        lane_(static_cast<int>(threadIdx.x) % 32),
        n_blocks_((p.n + kBn - 1) / kBn),
        tile_(static_cast<int>(blockIdx.x) / p.split),
        step_(static_cast<int>(gridDim.x) / p.split) {}

  // The tiles of this CTA, every step_-th.
  __device__ bool next(GemmTilePlace& place) {
    if (!at(tile_, place)) return false;
    tile_ += step_;
    return true;
  }

  // Tile number `tile`, not before the one asked for last; false where there are no so many.
  __device__ bool at(int tile, GemmTilePlace& place) {
    while (tile >= chunk_end_) {
      if (chunk_ >= p_.experts) return false;
      load_chunk();
    }
    const int local = tile - chunk_begin_;
    const int e = __popc(__ballot_sync(~0u, through_ <= local));
    const int before = __shfl_sync(~0u, through_, e == 0 ? 0 : e - 1);
    const int start = __shfl_sync(~0u, start_, e);
    const int count = __shfl_sync(~0u, count_, e);
    const int t = local - (e == 0 ? 0 : before);
    const int group = t < p_.group_m * n_blocks_ ? 0 : t / (p_.group_m * n_blocks_);
    const int first = group * p_.group_m;
    const int height = min(p_.group_m, (count + kBm - 1) / kBm - first);
    const int in_group = t - first * n_blocks_;
    const int block_n = in_group / height;
    const int block_m = first + in_group - block_n * height;
    place.expert = chunk_ - 32 + e;
    place.row = start + block_m * kBm;
    place.rows = count - block_m * kBm;
    place.col = block_n * kBn;
    return true;
  }

  // How many there are in all.
  __device__ int tiles() const {
    int blocks = 0;
    for (int e = lane_; e < p_.experts; e += 32) blocks += (rows_of(e).count + kBm - 1) / kBm;
    for (int d = 16; d > 0; d /= 2) blocks += __shfl_xor_sync(~0u, blocks, d);
    return blocks * n_blocks_;
  }

 private:
  struct Rows {
    int start, count;
  };
  __device__ Rows rows_of(int e) const {
    if (p_.layout == RowLayout::packed) {
      const int start = e == 0 ? 0 : min(p_.counts[e - 1], p_.rows);
      return {start, max(min(p_.counts[e], p_.rows) - start, 0)};
    }
    const bool masked = p_.layout == RowLayout::masked;
    const int most = masked ? p_.max_m : p_.rows;
    return {masked ? e * p_.max_m : 0, p_.counts == nullptr ? most : max(min(p_.counts[e], most), 0)};
  }

  __device__ void load_chunk() {
    const bool one = p_.experts == 1;  // all lanes hold it
    const int e = one ? 0 : chunk_ + lane_;
    const Rows r = e < p_.experts ? rows_of(e) : Rows{0, 0};
    start_ = r.start;
    count_ = r.count;
    through_ = (count_ + kBm - 1) / kBm * n_blocks_;
    for (int d = 1; d < 32 && !one; d *= 2) {
      const int below = __shfl_up_sync(~0u, through_, d);
      if (lane_ >= d) through_ += below;
    }
    chunk_ += 32;
    chunk_begin_ = chunk_end_;
    chunk_end_ += __shfl_sync(~0u, through_, 31);
  }

  const GemmParams& p_;
  const int lane_, n_blocks_;
  int tile_;
  const int step_;
  int chunk_ = 0;                        // experts loaded so far
  int chunk_begin_ = 0, chunk_end_ = 0;  // tiles before the chunk's, and through them
  int start_ = 0, count_ = 0,
      through_ = 0;  // this lane's expert: first row, rows, tiles through it within the chunk
};

}  // namespace trireme::cuda
