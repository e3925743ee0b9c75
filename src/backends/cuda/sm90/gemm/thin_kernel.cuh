#pragma once
// The GEMM kernel for few tokens, where the time is that of reading the weights: rows of the weights take the
// side of the multiply that comes in 64s, tokens the side that comes in 8s, and the sums are transposed on
// their way out. Two warps feed a ring of stages in shared memory, one with weights and one with tokens;
// three or four warpgroups multiply, so that the latency of a step of one hides behind the others.

#include <cuda.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/gemm/thin_math.cuh"
#include "backends/cuda/sm90/gemm/thin_walk.cuh"

namespace trireme::cuda {

// A tile is kTokens x kWeights of the output. The math warpgroups stand kWgM below each other; where those
// are one or two, kWgK take turns with the steps of K.
template <int kTokensOf, int kWeightsOf>
struct ThinConfig {
  static constexpr int kTokens = kTokensOf, kWeights = kWeightsOf;
  static constexpr int kWgM = kWeights / 64, kWgK = kWgM < 3 ? 4 / kWgM : 1;
  static constexpr int kXBytes = kTokens * 128, kWBytes = kWeights * 128;
  // The copy engine starts a row of scales at a multiple of 16 bytes, a tile anywhere: up to 3 more are
  // copied.
  static constexpr int kScaleBox = kTokens + 4, kScaleStride = (kScaleBox + 31) / 32 * 32;
  static constexpr int kCopiedBytes = kXBytes + kWBytes + kScaleBox * 4;
  static constexpr int kStageBytes = kXBytes + kWBytes + kScaleStride * 4;
  // Of those that took turns, so many have part of the tile's tokens each in the end.
  static constexpr int kOwners = kWgK < kTokens / 16 ? kWgK : kTokens / 16, kOwnTokens = kTokens / kOwners;
  static constexpr int kTurnsBytes = kWgM * (kWgK - 1) * 64 * kTokens * 4;
  static constexpr int kPieces = 4;                             // that the feeding warp may be ahead
  static constexpr int kOtherBytes = 1024 + 512 + kTurnsBytes;  // what aligning costs; barriers and pieces
  static constexpr int kSmemMost = 227 * 1024 - kOtherBytes;
  // A stage is always the same turn's: its barrier's phases are told apart by parity, and another turn could
  // come a round early.
  static constexpr int kStages = (kSmemMost / kStageBytes < 12 ? kSmemMost / kStageBytes : 12) / kWgK * kWgK;
  // Weights loaded before the tokens may be: more would keep the first tokens waiting behind them.
  static constexpr int kEarly = kWBytes < 32768 ? 49152 / kWBytes : 1;
  static constexpr int kSmemBytes = kStages * kStageBytes + kOtherBytes;
  static constexpr int kMathWarps = 4 * kWgM * kWgK, kThreads = 32 * (kMathWarps + 2);
  // Whether registers hold the tokens' scales while a step is multiplied, so that its stage is free at once.
  static constexpr bool kScalesFirst = kTokens < 64 || kWgK == 1;
  using Sum = SplitSum<4 * kWgM * kOwners, kOwnTokens / 8>;
  static_assert(kWgM <= 4 && kTokens % 16 == 0 && kStages >= 3 && kEarly <= kStages);
};

template <class C>
struct ThinSmem {
  unsigned char* w;                    // [stages][kWeights][128 bytes], swizzled
  unsigned char* x;                    // [stages][kTokens][128 bytes], swizzled
  float* scale;                        // [stages][kScaleStride]
  float4* turns;                       // [kWgM][owners][kWgK - 1][kOwnTokens / 8][128 threads]
  ThinPiece* pieces;                   // [kPieces]
  Mbarrier *full, *empty;              // [stages]
  Mbarrier *piece_full, *piece_empty;  // [kPieces]

  __device__ explicit ThinSmem(unsigned char* raw) {
    w = raw + (1024 - smem_address(raw) % 1024) % 1024;
    x = w + C::kStages * C::kWBytes;
    scale = reinterpret_cast<float*>(x + C::kStages * C::kXBytes);
    turns = reinterpret_cast<float4*>(scale + C::kStages * C::kScaleStride);
    pieces = reinterpret_cast<ThinPiece*>(reinterpret_cast<unsigned char*>(turns) + C::kTurnsBytes);
    full = reinterpret_cast<Mbarrier*>(pieces + C::kPieces);
    empty = full + C::kStages;
    piece_full = empty + C::kStages;
    piece_empty = piece_full + C::kPieces;
  }
};

// One lane: the weights of a step, which no kernel before this one writes.
template <class C>
__device__ __forceinline__ void load_weights(const CUtensorMap* map_w, const ThinParams& p,
                                             const ThinSmem<C>& smem, int stage, const ThinPiece& piece,
                                             int k) {
  mbarrier_arrive_expect_tx(&smem.full[stage], C::kCopiedBytes);
  tma_load_2d(smem.w + stage * C::kWBytes, map_w, &smem.full[stage], k * 128, piece.expert * p.n + piece.col,
              piece.weights_again ? L2Hint::normal : L2Hint::evict_first);
}

// The warp that feeds weights, and tells the math warps the pieces. It need not wait for them to begin.
template <class C>
__device__ __forceinline__ void feed_weights(const CUtensorMap* map_w, const ThinParams& p,
                                             const ThinSmem<C>& smem) {
  const bool leader = threadIdx.x % 32 == 0;
  if (p.counts != nullptr) grid_dependency_wait();
  ThinWalk<C::kTokens, C::kWeights> walk(p);
  ThinPiece piece = walk.next();
  __syncthreads();  // the barriers are there
  // The first weights, while the kernel before drains.
  int early = min(piece.steps, C::kEarly);
#pragma unroll 1
  for (int i = 0; i < early; ++i) {
    if (leader) load_weights<C>(map_w, p, smem, i, piece, piece.k + i);
  }
  grid_launch_dependents();
  ThinRing<C::kStages> at;
  for (ThinRing<C::kPieces> told;; told.next()) {
    mbarrier_wait(&smem.piece_empty[told.stage], told.parity ^ 1);
    if (leader) {
      smem.pieces[told.stage] = piece;
      mbarrier_arrive(&smem.piece_full[told.stage]);
    }
    if (piece.steps == 0) return;
    grid_dependency_wait();
    const int end = piece.k + piece.steps;
#pragma unroll 1
    for (int k = piece.k; k < end; ++k, at.next()) {
      if (early-- > 0) continue;
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (leader) load_weights<C>(map_w, p, smem, at.stage, piece, k);
    }
    __syncwarp();
    piece = walk.next();
  }
}

// The warp that feeds tokens. One warp for both was the limit where steps are small.
template <class C>
__device__ __forceinline__ void feed_tokens(const CUtensorMap* map_x, const CUtensorMap* map_scale,
                                            const ThinParams& p, const ThinSmem<C>& smem) {
  const bool leader = threadIdx.x % 32 == 0;
  if (p.counts != nullptr) grid_dependency_wait();
  ThinWalk<C::kTokens, C::kWeights> walk(p);
  ThinPiece piece = walk.next();
  __syncthreads();
  grid_dependency_wait();
  for (ThinRing<C::kStages> at; piece.steps > 0; piece = walk.next()) {
    const int end = piece.k + piece.steps, scale_row = piece.row / 4 * 4;
#pragma unroll 1
    for (int k = piece.k; k < end; ++k, at.next()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (leader) {
        Mbarrier* full = &smem.full[at.stage];
        tma_load_2d(smem.x + at.stage * C::kXBytes, map_x, full, k * 128, piece.row);
        tma_load_2d(smem.scale + at.stage * C::kScaleStride, map_scale, full, scale_row, k);
      }
    }
    __syncwarp();
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    thin_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                const __grid_constant__ CUtensorMap map_scale, const __grid_constant__ ThinParams p) {
  extern __shared__ unsigned char raw[];
  const ThinSmem<C> smem(raw);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
  if (warp < C::kMathWarps) {
    if (threadIdx.x == 0) {  // the feeding warps find their first tile meanwhile
      for (int s = 0; s < C::kStages; ++s) {
        mbarrier_init(&smem.full[s], 1);
        mbarrier_init(&smem.empty[s], 4 * C::kWgM);
      }
      for (int s = 0; s < C::kPieces; ++s) {
        mbarrier_init(&smem.piece_full[s], 1);
        mbarrier_init(&smem.piece_empty[s], C::kMathWarps);
      }
      fence_mbarrier_init();
      fence_proxy_async();
    }
    __syncwarp();
    __syncthreads();
    multiply_thin<C>(p, smem, warp);
  } else if (warp == C::kMathWarps) {
    if (threadIdx.x % 32 == 0) prefetch_tensor_map(&map_w);
    feed_weights<C>(&map_w, p, smem);
  } else {
    if (threadIdx.x % 32 == 0) {
      prefetch_tensor_map(&map_x);
      prefetch_tensor_map(&map_scale);
    }
    feed_tokens<C>(&map_x, &map_scale, p, smem);
  }
}

}  // namespace trireme::cuda
