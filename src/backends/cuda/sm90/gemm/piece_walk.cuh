#pragma once
// Which steps of K of which tiles a CTA takes: whole tiles, and of the last ones, where they are fewer than
// half of the CTAs, slices of K; or of one tile the slice of K that its place in its cluster says. Slices of
// the same steps run side by side, so that what tiles have in common is still in L2. One warp walks, the
// others hear from it.
//
// Where tiles are alike each CTA takes every n-th. Experts' last tiles may have few rows and are done early:
// CTAs then take the next tile of all as they come free. That keeps them busy, and it keeps tiles of the same
// weights side by side; in turn, a CTA that gets short tiles only runs ahead and reads its weights alone.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/sm90/gemm/split_sum.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda {

// A place in a ring in shared memory and the parity of the round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Consecutive steps of K of one tile.
struct alignas(16) GemmPiece {
  GemmTilePlace tile;
  int k, steps;      // steps 0: there are no more pieces
  SplitShare share;  // where the steps are not all of the tile's, and which of the sharers this is
  int sharer;
};

// The pieces of this CTA (of its cluster, where CTAs pair up), for one converged warp: next, take, next, ...
template <int kBm, int kBn, int kPair, TileShare kShare>
class PieceWalk {
 public:
  __device__ explicit PieceWalk(const GemmParams& p)
      : tiles_(p),
        taken_(p.taken),
        k_blocks_(p.k_blocks),
        tile_(static_cast<int>(blockIdx.x) / kPair),
        ctas_(static_cast<int>(gridDim.x) / kPair) {
    if constexpr (kShare == TileShare::gather) {
      tile_ = static_cast<int>(blockIdx.x) / p.split;
      ctas_ = static_cast<int>(gridDim.x) / p.split;
      left_ = static_cast<int>(blockIdx.x) - tile_ * p.split;
      slices_ = p.split;
    }
    if (kShare != TileShare::meet || p.split_least == 0) return;
    const int all = tiles_.tiles(), left = all % ctas_;
    if (left == 0) return;
    slices_ = min(ctas_ / left, k_blocks_ / p.split_least);
    if (slices_ < 2) return;
    whole_ = all - left;
    left_ = left;
  }

  __device__ GemmPiece next() {
    GemmPiece piece = {};
    tile_ = __shfl_sync(~0u, tile_, 0);
    if (kShare != TileShare::meet || tile_ < whole_) {
      if (tiles_.at(tile_, piece.tile)) {
        piece.steps = k_blocks_;
        if constexpr (kShare == TileShare::gather) take_slice(piece, left_);
      } else if (taken_ != nullptr && tile_ == ctas_ + tiles_.tiles() - 1 && threadIdx.x % 32 == 0) {
        *taken_ = 0;  // a take a tile: this was the last
      }
      return piece;
    }
    const int place = tile_ - whole_, slice = place / left_, tile = place - slice * left_;
    if (slice >= slices_) return piece;  // left_ * slices_ <= ctas_: a slice is a CTA's last piece
    tiles_.at(whole_ + tile, piece.tile);
    take_slice(piece, slice);
    piece.share = {tile * slices_, tile * slices_ + slices_ - 1, false};
    piece.sharer = tile * slices_ + slice;
    return piece;
  }

  // Which piece is the next one is settled: some steps before it is asked for, since memory has to answer.
  __device__ void take() {
    if (taken_ == nullptr) {
      tile_ += ctas_;
    } else if (threadIdx.x % 32 == 0) {
      tile_ = ctas_ + static_cast<int>(atomicAdd(taken_, 1u));
    }
  }
  static constexpr int kAhead = 4;  // so many steps

 private:
  __device__ void take_slice(GemmPiece& piece, int slice) const {
    piece.k = k_blocks_ * slice / slices_;
    piece.steps = k_blocks_ * (slice + 1) / slices_ - piece.k;
  }

  TileWalk<kPair * kBm, kBn> tiles_;
  std::uint32_t* const taken_;
  const int k_blocks_;
  int tile_;  // the next one; lane 0 knows
  int ctas_;
  int whole_ = 0x7FFFFFFF;     // tiles that do not meet
  int left_ = 1, slices_ = 0;  // tiles that do; where a cluster shares each, this CTA's slice
};

// How the walking warp tells the others, kPlaces pieces ahead at most.
template <int kPlaces>
struct PieceRing {
  GemmPiece* pieces;       // [kPlaces]
  Mbarrier *told, *heard;  // [kPlaces]; heard: an arrival of each hearing warp
  RingPlace<kPlaces> at = {};

  // The walking warp, all lanes.
  __device__ __forceinline__ void tell(const GemmPiece& piece) {
    mbarrier_wait(&heard[at.stage], at.parity ^ 1);
    if (threadIdx.x % 32 == 0) {
      pieces[at.stage] = piece;
      mbarrier_arrive(&told[at.stage]);
    }
    __syncwarp();
    at.advance();
  }
  // Any other warp, all lanes, until there are no more steps. Uniform, and known to be.
  __device__ __forceinline__ GemmPiece hear() {
    mbarrier_wait(&told[at.stage], at.parity);
    const GemmPiece& from = pieces[at.stage];
    GemmPiece p;
    p.tile.expert = __shfl_sync(~0u, from.tile.expert, 0);
    p.tile.row = __shfl_sync(~0u, from.tile.row, 0);
    p.tile.rows = __shfl_sync(~0u, from.tile.rows, 0);
    p.tile.col = __shfl_sync(~0u, from.tile.col, 0);
    p.k = __shfl_sync(~0u, from.k, 0);
    p.steps = __shfl_sync(~0u, from.steps, 0);
    p.share.first = __shfl_sync(~0u, from.share.first, 0);
    p.share.last = __shfl_sync(~0u, from.share.last, 0);
    p.share.first_ends = false;
    p.sharer = __shfl_sync(~0u, from.sharer, 0);
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&heard[at.stage]);
    at.advance();
    return p;
  }
};

}  // namespace trireme::cuda
