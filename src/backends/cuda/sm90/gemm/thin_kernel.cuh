#pragma once
// The GEMM kernel for few tokens, where the time is that of reading the weights: rows of the weights take the
// side of the multiply that comes in 64s, tokens the side that comes in 8s, and the sums are transposed on
// their way out. Eight math warps; a ninth feeds a ring of stages that takes nearly all shared memory.

#include <cuda.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/gemm/thin_math.cuh"
#include "backends/cuda/sm90/gemm/thin_walk.cuh"

namespace trireme::cuda {

// kTokens x kWeights of the output in a tile; each of the two warpgroups has half of the weights' rows.
template <int kTokensOf, int kWeightsOf>
struct ThinConfig {
  static constexpr int kTokens = kTokensOf, kWeights = kWeightsOf;
  static constexpr int kBlocks = kWeights / 128;  // multiplies of 64 rows in a warpgroup
  static constexpr int kXBytes = kTokens * 128, kWBytes = kWeights * 128;
  // The copy engine starts a row of scales at a multiple of 16 bytes, a tile anywhere: up to 3 more are copied.
  static constexpr int kScaleBox = kTokens + 4, kScaleStride = (kScaleBox + 31) / 32 * 32;
  static constexpr int kCopiedBytes = kXBytes + kWBytes + kScaleBox * 4;
  static constexpr int kStageBytes = kXBytes + kWBytes + kScaleStride * 4;
  static constexpr int kOtherBytes = 1024 + 256;  // what aligning costs, the barriers
  static constexpr int kSmemMost = 227 * 1024 - kOtherBytes;
  static constexpr int kStages = kSmemMost / kStageBytes < 12 ? kSmemMost / kStageBytes : 12;
  static constexpr int kSmemBytes = kStages * kStageBytes + kOtherBytes;
  static constexpr int kMathWarps = 8, kThreads = 384;  // the rest is the feeding warp's warpgroup
  using Sum = SplitSum<kMathWarps, kBlocks, kTokens / 8>;
  static_assert(kStages >= 3 && kXBytes % 1024 == 0 && kWeights % 128 == 0);
};

template <class C>
struct ThinSmem {
  unsigned char* w;        // [stages][kWeights][128 bytes], swizzled
  unsigned char* x;        // [stages][kTokens][128 bytes], swizzled
  float* scale;            // [stages][kScaleStride]
  Mbarrier *full, *empty;  // [stages]

  __device__ explicit ThinSmem(unsigned char* raw) {
    w = raw + (1024 - smem_address(raw) % 1024) % 1024;
    x = w + C::kStages * C::kWBytes;
    scale = reinterpret_cast<float*>(x + C::kStages * C::kXBytes);
    full = reinterpret_cast<Mbarrier*>(scale + C::kStages * C::kScaleStride);
    empty = full + C::kStages;
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

// The first stages' weights, while the kernel before drains. Returns how many.
template <class C>
__device__ __forceinline__ int feed_early(const CUtensorMap* map_w, const ThinParams& p,
                                          const ThinSmem<C>& smem) {
  ThinWalk<C::kTokens, C::kWeights> walk(p);
  ThinPiece piece;
  int stage = 0;
  while (stage < C::kStages && walk.next(piece)) {
    for (int i = 0; i < piece.steps && stage < C::kStages; ++i, ++stage) {
      if (threadIdx.x % 32 == 0) load_weights<C>(map_w, p, smem, stage, piece, piece.k + i);
    }
  }
  return stage;
}

template <class C>
__device__ __forceinline__ void feed(const CUtensorMap* map_x, const CUtensorMap* map_w,
                                     const CUtensorMap* map_scale, const ThinParams& p,
                                     const ThinSmem<C>& smem, int early) {
  ThinWalk<C::kTokens, C::kWeights> walk(p);
  ThinRing<C::kStages> at;
  ThinPiece piece;
  while (walk.next(piece)) {
    for (int k = piece.k; k < piece.k + piece.steps; ++k, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (threadIdx.x % 32 == 0) {
        Mbarrier* full = &smem.full[at.stage];
        if (early-- <= 0) load_weights<C>(map_w, p, smem, at.stage, piece, k);
        tma_load_2d(smem.x + at.stage * C::kXBytes, map_x, full, k * 128, piece.row);
        tma_load_2d(smem.scale + at.stage * C::kScaleStride, map_scale, full, piece.row / 4 * 4, k);
      }
      __syncwarp();
    }
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    thin_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                const __grid_constant__ CUtensorMap map_scale, const __grid_constant__ ThinParams p) {
  extern __shared__ unsigned char raw[];
  const ThinSmem<C> smem(raw);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
  int early = 0;
  if (warp == C::kMathWarps) {
    if (threadIdx.x % 32 == 0) {
      prefetch_tensor_map(&map_w);
      prefetch_tensor_map(&map_x);
      prefetch_tensor_map(&map_scale);
      for (int s = 0; s < C::kStages; ++s) {
        mbarrier_init(&smem.full[s], 1);
        mbarrier_init(&smem.empty[s], C::kMathWarps);
      }
      fence_mbarrier_init();
      fence_proxy_async();
    }
    __syncwarp();
    if (p.counts == nullptr) early = feed_early<C>(&map_w, p, smem);
  }
  grid_launch_dependents();
  __syncthreads();
  if (warp >= C::kMathWarps) {
    register_limit_decrease<56>();
    if (warp == C::kMathWarps) {
      grid_dependency_wait();
      feed<C>(&map_x, &map_w, &map_scale, p, smem, early);
    }
  } else {
    register_limit_increase<224>();
    multiply_thin<C>(p, smem, warp);
  }
}

}  // namespace trireme::cuda
