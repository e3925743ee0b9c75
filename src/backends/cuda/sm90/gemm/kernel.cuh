#pragma once
// The GEMM kernel for many rows. One warp feeds a ring of shared-memory stages through the copy engine, two
// warpgroups multiply, two warps send what they stage back through the copy engine. Persistent: the copies of
// the next tile start, and it is multiplied, while this one is on its way to memory.

#include <cuda.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/gemm/math_loop.cuh"
#include "backends/cuda/sm90/gemm/piece_walk.cuh"

namespace trireme::cuda {

// A copy of scales starts at a multiple of 16 bytes, a tile anywhere: up to 3 more than it has are copied.
constexpr int scale_box(int bm) { return bm + 4; }

// A CTA computes 128 x kNi * kPartN: each of its two math warpgroups 64 rows, in kNi parts of kPartN columns.
// kPair 2: two CTAs below each other, which each bring half of the weights to both. kSplit: the last tiles
// may be shared. kGather: a cluster shares each tile, of which there is one a cluster.
template <bool kIsFp8, int kNiOf, int kPartNOf, int kPairOf, TileShare kShareOf = TileShare::none>
struct GemmConfig {
  static constexpr bool kFp8 = kIsFp8;
  static constexpr int kNi = kNiOf, kPartN = kPartNOf, kPair = kPairOf;
  static constexpr TileShare kShare = kShareOf;
  static constexpr bool kSplit = kShare == TileShare::meet, kGather = kShare == TileShare::gather;
  static constexpr int kBm = 128, kBn = kNi * kPartN;
  static constexpr int kRowBytes = 128;  // of K in a stage
  static constexpr int kStepK = kFp8 ? 128 : 64;
  static constexpr int kXBytes = kBm * kRowBytes, kWBytes = kBn * kRowBytes;
  static constexpr int kScaleBytes = kFp8 ? 640 : 0;  // scale_box(kBm) floats, padded
  static constexpr int kCopiedBytes = kXBytes + kWBytes + (kFp8 ? scale_box(kBm) * 4 : 0);
  static constexpr int kStageBytes = kXBytes + kWBytes + kScaleBytes;
  static constexpr int kChunks = kPartN / 64, kChunkBytes = 64 * 128;  // of a part: 64 rows of 64 columns
  static constexpr int kStoreBytes = kGather ? 0 : 2 * kChunks * kChunkBytes;
  static constexpr int kPlaces = 4;
  static constexpr int kOtherBytes = 512;  // pieces and barriers
  static constexpr int kSmemMost = 227 * 1024 - kOtherBytes - kStoreBytes;
  static constexpr int kStages = kSmemMost / kStageBytes < 12 ? kSmemMost / kStageBytes : 12;
  static constexpr int kSmemBytes = kStages * kStageBytes + kStoreBytes + kOtherBytes;
  static constexpr int kEarly = 2;  // stages
  static constexpr int kThreads = 384, kMathWarps = 8;
  static constexpr int kUnroll = kBn > 192 ? 8 : kBn > 128 ? 4 : 1;  // steps of FP8 at a time, as measured
  // Of a wide tile the sums take most registers: they are parked while they meet others.
  static constexpr bool kParked = kBn > 128;
  using Sum = SplitSum<kMathWarps, kBn / 8, kParked>;
  static_assert(kPair == 1 || kShare == TileShare::none);
  static_assert(kStages >= 4 && kPartN % 64 == 0 && kXBytes % 1024 == 0 && kWBytes % 1024 == 0);
};

template <class C>
struct GemmSmem {
  unsigned char* x;      // [stages][kBm][128 bytes], swizzled
  unsigned char* w;      // [stages][kBn][128 bytes], swizzled
  unsigned char* store;  // [2 warpgroups][kChunks][64 rows][128 bytes], swizzled
  float* scale;          // [stages][kScaleBytes]
  PieceRing<C::kPlaces> pieces;
  Mbarrier *full, *empty;   // [stages]
  Mbarrier *staged, *sent;  // [2 warpgroups][kChunks]: a chunk is in `store`; has been read there
  Mbarrier* gathered;       // the sums of all CTAs of the cluster are in their shared memory

  // raw: aligned to 1024 bytes.
  __device__ explicit GemmSmem(unsigned char* raw) {
    x = raw;
    w = x + C::kStages * C::kXBytes;
    store = w + C::kStages * C::kWBytes;
    scale = reinterpret_cast<float*>(store + C::kStoreBytes);
    auto* piece =
        reinterpret_cast<GemmPiece*>(reinterpret_cast<unsigned char*>(scale) + C::kStages * C::kScaleBytes);
    full = reinterpret_cast<Mbarrier*>(piece + C::kPlaces);
    empty = full + C::kStages;
    staged = empty + C::kStages;
    sent = staged + 2 * C::kChunks;
    gathered = staged;
    pieces = {piece, sent + 2 * C::kChunks, sent + 2 * C::kChunks + C::kPlaces};
    static_assert(C::kPlaces * sizeof(GemmPiece) +
                      (2 * C::kStages + 4 * C::kChunks + 2 * C::kPlaces) * sizeof(Mbarrier) <=
                  C::kOtherBytes);
  }
  __device__ unsigned char* chunk(int wg, int c) const {
    return store + (wg * C::kChunks + c) * C::kChunkBytes;
  }
};

// One lane: the weights of a step, which no kernel before this one writes.
template <class C>
__device__ __forceinline__ void load_weights(const CUtensorMap* map_w, const GemmParams& p,
                                             const GemmSmem<C>& smem, int stage, const GemmTilePlace& tile,
                                             int kb, int rank) {
  Mbarrier* full = &smem.full[stage];
  unsigned char* w = smem.w + stage * C::kWBytes;
  const int row = tile.expert * p.n + tile.col;
  mbarrier_arrive_expect_tx(full, C::kCopiedBytes);
  if constexpr (C::kPair == 2) {
    tma_load_2d_multicast(w + rank * (C::kWBytes / 2), map_w, full, 3, kb * C::kStepK,
                          row + rank * (C::kBn / 2));
  } else {
    tma_load_2d(w, map_w, full, kb * C::kStepK, row);
  }
}

// One lane: the rows of a step and their scales.
template <class C>
__device__ __forceinline__ void load_rows(const CUtensorMap* map_x, const CUtensorMap* map_scale,
                                          const GemmSmem<C>& smem, int stage, int row, int kb) {
  tma_load_2d(smem.x + stage * C::kXBytes, map_x, &smem.full[stage], kb * C::kStepK, row);
  if constexpr (C::kFp8) {
    tma_load_2d(smem.scale + stage * (C::kScaleBytes / 4), map_scale, &smem.full[stage], row / 4 * 4, kb);
  }
}

// Until the barriers are there, of both CTAs of a pair. All warps; those of clusters have arrived before.
template <class C>
__device__ __forceinline__ void wait_for_barriers() {
  if constexpr (C::kPair == 2) {
    cluster_wait();
  } else {
    __syncthreads();
  }
}

template <class C>
__device__ __forceinline__ void feed(const CUtensorMap* map_x, const CUtensorMap* map_w,
                                     const CUtensorMap* map_scale, const GemmParams& p, GemmSmem<C>& smem,
                                     int rank) {
  const bool leader = threadIdx.x % 32 == 0;
  if (p.counts != nullptr) grid_dependency_wait();
  PieceWalk<C::kBm, C::kBn, C::kPair, C::kShare> walk(p);
  GemmPiece piece = walk.next();
  wait_for_barriers<C>();
  // The first weights, while the kernel before drains: more would keep the first rows waiting behind them.
  // Not all of the piece: with its last steps the next one is settled.
  const int early = min(piece.steps - 1, C::kEarly);
  if (leader) {
    for (int i = 0; i < early; ++i) load_weights<C>(map_w, p, smem, i, piece.tile, piece.k + i, rank);
  }
  __syncwarp();
  grid_dependency_wait();
  RingPlace<C::kStages> at;
  for (int i = 0; i < early; ++i, at.advance()) {
    if (leader) {
      load_rows<C>(map_x, map_scale, smem, i, own_part<C>(piece.tile, rank).row, piece.k + i);
    }
  }
  __syncwarp();
  for (int begun = max(early, 0);; piece = walk.next(), begun = 0) {
    smem.pieces.tell(piece);
    if (piece.steps == 0) break;
    if constexpr (C::kFp8) WeightScaleRows(p, piece).prefetch(piece.steps);
    const int row = own_part<C>(piece.tile, rank).row, end = piece.k + piece.steps;
    const int first = piece.k + begun, take_at = max(first, end - walk.kAhead);
    for (int kb = first; kb < end; ++kb, at.advance()) {
      if (kb == take_at) walk.take();
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (leader) {
        load_weights<C>(map_w, p, smem, at.stage, piece.tile, kb, rank);
        load_rows<C>(map_x, map_scale, smem, at.stage, row, kb);
      }
      __syncwarp();
    }
  }
  // The other CTA's last words on these barriers must not reach a CTA that has gone.
  if constexpr (C::kPair == 2) {
    for (int i = 0; i < C::kStages; ++i, at.advance()) mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
  }
}

// One warp for each math warpgroup: sends its staged parts.
template <class C>
__device__ __forceinline__ void send(const CUtensorMap* map_out, const GemmParams& p, GemmSmem<C>& smem,
                                     int rank, int wg) {
  std::uint32_t parity = 0;
  for (GemmPiece piece = smem.pieces.hear(); piece.steps > 0; piece = smem.pieces.hear()) {
    const GemmTilePlace tile = own_part<C>(piece.tile, rank);
    if (!is_staged(p, piece, tile.rows - 64 * wg)) continue;
    for (int col = tile.col; col < tile.col + C::kBn && col < p.n; col += C::kPartN, parity ^= 1) {
#pragma unroll
      for (int c = 0; c < C::kChunks; ++c) {
        mbarrier_wait(&smem.staged[wg * C::kChunks + c], parity);
        if (threadIdx.x % 32 == 0) {
          if (col + 64 * c < p.n) tma_store_2d(map_out, smem.chunk(wg, c), col + 64 * c, tile.row + 64 * wg);
          tma_store_commit();
          // The one before, while this one is read.
          if (c > 0) {
            tma_store_wait_read<1>();
            mbarrier_arrive(&smem.sent[wg * C::kChunks + c - 1]);
          }
        }
        __syncwarp();
      }
      if (threadIdx.x % 32 == 0) {
        tma_store_wait_read<0>();
        mbarrier_arrive(&smem.sent[wg * C::kChunks + C::kChunks - 1]);
      }
      __syncwarp();
    }
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    gemm_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                const __grid_constant__ CUtensorMap map_scale, const __grid_constant__ CUtensorMap map_out,
                const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(1024) unsigned char raw[];
  GemmSmem<C> smem(raw);
  const int rank = C::kPair == 2 ? static_cast<int>(cluster_cta_rank()) : 0;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // uniform, and known to be
  // The feeding warp finds its first tile meanwhile.
  if (warp == 1) {
    if (threadIdx.x % 32 == 0) {
      for (int s = 0; s < C::kStages; ++s) {
        mbarrier_init(&smem.full[s], 1);
        mbarrier_init(&smem.empty[s], C::kMathWarps * C::kPair);
      }
      for (int i = 0; i < 2 * C::kChunks; ++i) {
        mbarrier_init(&smem.staged[i], C::kGather ? static_cast<std::uint32_t>(p.split) : 4);
        mbarrier_init(&smem.sent[i], 1);
      }
      for (int i = 0; i < C::kPlaces; ++i) {
        mbarrier_init(&smem.pieces.told[i], 1);
        mbarrier_init(&smem.pieces.heard[i], C::kMathWarps + 2);
      }
      fence_mbarrier_init();
      fence_proxy_async();
    }
    __syncwarp();
  } else if (threadIdx.x % 32 == 0) {
    if (warp == 0) prefetch_tensor_map(&map_w);
    if (warp == 2) prefetch_tensor_map(&map_x);
    if (C::kFp8 && warp == 3) prefetch_tensor_map(&map_scale);
    if (warp == 3 && !p.out_f32) prefetch_tensor_map(&map_out);
  }
  // A cluster that gathers waits before any hears from another.
  if constexpr (C::kPair == 2 || C::kGather) cluster_arrive_relaxed();
  if (warp != 0) wait_for_barriers<C>();
  grid_launch_dependents();

  if (warp < 4) {
    register_limit_decrease<40>();
    if (warp == 0) feed<C>(&map_x, &map_w, &map_scale, p, smem, rank);
    if (!C::kGather && (warp == 1 || warp == 2)) send<C>(&map_out, p, smem, rank, warp - 1);
    if constexpr (C::kGather) {
      __syncwarp();
      cluster_wait();
    }
  } else {
    register_limit_increase<232>();
    if constexpr (C::kGather) cluster_wait();
    multiply<C>(p, smem, rank);
  }
  // No CTA of a pair leaves while the other may still write to it or tell it that a stage is free, none of a
  // cluster while another may read its sums.
  if constexpr (C::kPair == 2 || C::kGather) {
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
  }
}

}  // namespace trireme::cuda
