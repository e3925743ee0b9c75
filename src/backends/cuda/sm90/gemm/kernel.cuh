#pragma once
// The GEMM kernel: one warp of the first warpgroup feeds a ring of shared-memory stages through the copy
// engine, two warpgroups multiply. Persistent: a CTA walks over tiles, and the copies of the next tile start
// while this one is stored.

#include <cuda.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/sm90/gemm/math_loop.cuh"
#include "backends/cuda/sm90/gemm/split_k.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda {

// The copy engine starts a row of scales at a multiple of 16 bytes, a tile anywhere: up to 3 more are copied.
// A copy takes 256 at most, so of a tall tile's scales there are two, of its lower and its upper half.
constexpr int scale_copies(int bm) { return bm > 128 ? 2 : 1; }
constexpr int scale_box(int bm) { return bm / scale_copies(bm) + 4; }

// A math warpgroup computes kMi * 64 rows by kWn columns; the two stand below each other (kWgM = 2) or side
// by side. FP8: a multiply has kPartN columns, as two must fit the registers beside the sums, and kChain
// steps of K overlap. kSplit: a cluster divides K.
template <bool kIsFp8, int kMiOf, int kWnOf, int kWgMOf, int kPartNOf = kWnOf, int kChainOf = 4,
          bool kSplitOf = false>
struct GemmConfig {
  static constexpr bool kFp8 = kIsFp8;
  static constexpr int kMi = kMiOf, kWn = kWnOf, kWgM = kWgMOf, kWgN = 2 / kWgMOf;
  static constexpr int kPartN = kPartNOf, kPartsN = kWn / kPartN, kParts = kMi * kPartsN;
  static constexpr int kChain = kChainOf;
  static constexpr bool kSplit = kSplitOf;
  static constexpr int kBm = 64 * kMi * kWgM, kBn = kWn * kWgN;
  static constexpr int kRowBytes = 128;  // of K in a stage
  static constexpr int kStepK = kFp8 ? 128 : 64;
  static constexpr int kXBytes = kBm * kRowBytes, kWBytes = kBn * kRowBytes;
  static constexpr int kScaleCopies = scale_copies(kBm), kScaleBox = scale_box(kBm);
  static constexpr int kScaleStride = kFp8 ? kBm + 32 : 0;
  static constexpr int kCopiedBytes = kXBytes + kWBytes + (kFp8 ? kScaleCopies * kScaleBox * 4 : 0);
  static constexpr int kStageBytes = kXBytes + kWBytes + kScaleStride * 4;
  static constexpr int kSumBytes = kSplit ? 256 * kWn / 2 * 4 : 0;
  static constexpr int kOtherBytes = 1024 + 256 + kSumBytes;  // what aligning costs, the barriers
  static constexpr int kSmemMost = 227 * 1024 - kOtherBytes;
  static constexpr int kStages = kSmemMost / kStageBytes < 12 ? kSmemMost / kStageBytes : 12;
  static constexpr int kSmemBytes = kStages * kStageBytes + kOtherBytes;
  static constexpr int kThreads = 384;
  static_assert(kMi == 1 || !kSplit);
  static_assert(kStages >= 3 && kXBytes % 1024 == 0 && (kWn * kRowBytes) % 1024 == 0);
};

template <class C>
struct GemmSmem {
  unsigned char* x;        // [stages][kBm][128 bytes], swizzled
  unsigned char* w;        // [stages][kBn][128 bytes], swizzled
  float* scale;            // [stages][kBm]
  float4* sums;            // see SplitKSum
  Mbarrier *full, *empty;  // [stages]
  Mbarrier *sums_ready, *sums_free;

  __device__ explicit GemmSmem(unsigned char* raw) {
    x = raw + (1024 - smem_address(raw) % 1024) % 1024;
    w = x + C::kStages * C::kXBytes;
    scale = reinterpret_cast<float*>(w + C::kStages * C::kWBytes);
    sums = reinterpret_cast<float4*>(scale + C::kStages * C::kScaleStride);
    full = reinterpret_cast<Mbarrier*>(reinterpret_cast<unsigned char*>(sums) + C::kSumBytes);
    empty = full + C::kStages;
    sums_ready = empty + C::kStages;
    sums_free = sums_ready + 1;
  }
};

// A place in the ring of stages and the parity of the round.
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

template <class C>
__device__ __forceinline__ void feed(const CUtensorMap* map_x, const CUtensorMap* map_w,
                                     const CUtensorMap* map_scale, const GemmParams& p,
                                     const GemmSmem<C>& smem, int rank, const KSlice& k) {
  const bool leader = threadIdx.x % 32 == 0;
  TileWalk<C::kBm, C::kBn> walk(p);
  RingPlace<C::kStages> at;
  GemmTilePlace tile;
  while (walk.next(tile)) {
    const int w_row = tile.expert * p.n + tile.col + rank * C::kBn;
    for (int kb = k.first; kb < k.first + k.count; ++kb, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (leader) {
        Mbarrier* full = &smem.full[at.stage];
        unsigned char* x = smem.x + at.stage * C::kXBytes;
        mbarrier_arrive_expect_tx(full, C::kCopiedBytes);
        if (p.cluster == 2) {
          // Each CTA brings half of the rows to both.
          tma_load_2d_multicast(x + rank * (C::kXBytes / 2), map_x, full, 3, kb * C::kStepK,
                                tile.row + rank * (C::kBm / 2));
        } else {
          tma_load_2d(x, map_x, full, kb * C::kStepK, tile.row);
        }
        tma_load_2d(smem.w + at.stage * C::kWBytes, map_w, full, kb * C::kStepK, w_row);
        if constexpr (C::kFp8) {
          float* scale = smem.scale + at.stage * C::kScaleStride;
#pragma unroll
          for (int i = 0; i < C::kScaleCopies; ++i) {
            tma_load_2d(scale + 128 * i, map_scale, full, tile.row / 4 * 4 + 128 * i, kb);
          }
        }
      }
      __syncwarp();
    }
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    gemm_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                const __grid_constant__ CUtensorMap map_scale, const __grid_constant__ GemmParams p) {
  extern __shared__ unsigned char raw[];
  const GemmSmem<C> smem(raw);
  const bool in_cluster = p.cluster * p.split > 1;
  const int cta = in_cluster ? static_cast<int>(cluster_cta_rank()) : 0;
  const int rank = p.cluster == 2 ? cta : 0;
  const KSlice k = C::kSplit ? slice_of(p.k_blocks, p.split, cta) : KSlice{0, p.k_blocks};
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&map_x);
    prefetch_tensor_map(&map_w);
    if constexpr (C::kFp8) prefetch_tensor_map(&map_scale);
    for (int s = 0; s < C::kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s],
                    8 * static_cast<std::uint32_t>(p.cluster));  // every math warp of the cluster
    }
    if constexpr (C::kSplit) {
      mbarrier_init(smem.sums_ready, 8 * static_cast<std::uint32_t>(p.split));
      mbarrier_init(smem.sums_free, 8 * static_cast<std::uint32_t>(p.split));
    }
    fence_mbarrier_init();
  }
  if (in_cluster) {
    cluster_arrive_relaxed();
    cluster_wait();
  } else {
    __syncthreads();
  }
  grid_dependency_wait();
  grid_launch_dependents();

  if (threadIdx.x < 128) {
    register_limit_decrease<40>();
    if (threadIdx.x < 32) feed<C>(&map_x, &map_w, &map_scale, p, smem, rank, k);
  } else {
    register_limit_increase<232>();
    multiply<C>(p, smem, rank, k, cta);
  }
  // No CTA of a cluster leaves while another may still write to it or read from it.
  if (in_cluster) {
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
  }
}

}  // namespace trireme::cuda
