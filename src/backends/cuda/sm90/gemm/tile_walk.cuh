#pragma once
// The order in which the persistent CTAs take tiles, from counts on the device.

#include <cstdint>

#include "backends/cuda/sm90/gemm/gemm.h"

namespace trireme::cuda {

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
  int cluster;  // CTAs that share x tiles: 1 or 2
  int split;    // CTAs that share the K of a tile; 1 unless cluster is
  int group_m;  // row blocks that go over all of n together: their x and the columns in flight fit L2
};

struct GemmTilePlace {
  int expert;
  int row;   // of x, the tile's first
  int rows;  // of this expert from there on, at least 1; may exceed the tile
  int col;   // of the output, the first of the cluster's tiles
};

// Every warp of a CTA walks for itself, converged, and all see the same tiles. Lane l holds expert l of a
// chunk of 32, so finding the next tile costs a ballot and a few shuffles however many experts there are.
template <int kBm, int kBn>
class TileWalk {
 public:
  __device__ explicit TileWalk(const GemmParams& p)
      : p_(p),
        lane_(static_cast<int>(threadIdx.x) % 32),
        n_blocks_((p.n + kBn * p.cluster - 1) / (kBn * p.cluster)),
        tile_(static_cast<int>(blockIdx.x) / (p.cluster * p.split)),
        step_(static_cast<int>(gridDim.x) / (p.cluster * p.split)) {}

  __device__ bool next(GemmTilePlace& place) {
    while (tile_ >= chunk_end_) {
      if (chunk_ >= p_.experts) return false;
      load_chunk();
    }
    const int local = tile_ - chunk_begin_;
    const int e = __popc(__ballot_sync(~0u, through_ <= local));
    const int before = __shfl_sync(~0u, through_, e == 0 ? 0 : e - 1);
    const int start = __shfl_sync(~0u, start_, e);
    const int count = __shfl_sync(~0u, count_, e);
    const int t = local - (e == 0 ? 0 : before);
    const int group = t / (p_.group_m * n_blocks_);
    const int first = group * p_.group_m;
    const int height = min(p_.group_m, (count + kBm - 1) / kBm - first);
    const int in_group = t - first * n_blocks_;
    const int block_n = in_group / height;
    const int block_m = first + in_group - block_n * height;
    place.expert = chunk_ - 32 + e;
    place.row = start + block_m * kBm;
    place.rows = count - block_m * kBm;
    place.col = block_n * kBn * p_.cluster;
    tile_ += step_;
    return true;
  }

 private:
  __device__ void load_chunk() {
    const int e = chunk_ + lane_;
    start_ = 0;
    count_ = 0;
    if (p_.layout == RowLayout::packed) {
      const int end = e < p_.experts ? min(p_.counts[e], p_.rows) : 0;
      start_ = __shfl_up_sync(~0u, end, 1);
      if (lane_ == 0) start_ = last_end_;
      last_end_ = __shfl_sync(~0u, end, 31);
      if (e < p_.experts) count_ = max(end - start_, 0);
    } else if (e < p_.experts) {
      const bool masked = p_.layout == RowLayout::masked;
      start_ = masked ? e * p_.max_m : 0;
      const int most = masked ? p_.max_m : p_.rows;
      count_ = p_.counts == nullptr ? most : max(min(p_.counts[e], most), 0);
    }
    through_ = (count_ + kBm - 1) / kBm * n_blocks_;
    for (int d = 1; d < 32; d *= 2) {
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
  int last_end_ = 0;
};

}  // namespace trireme::cuda
