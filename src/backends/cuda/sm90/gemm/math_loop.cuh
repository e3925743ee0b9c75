#pragma once
// What a math warpgroup does with a piece: multiply the stages as they arrive, release them, hand over the
// results.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/sm90/gemm/piece_walk.cuh"

namespace trireme::cuda {

template <class C>
struct GemmSmem;

// This CTA's part of what its pair computes.
template <class C>
__device__ __forceinline__ GemmTilePlace own_part(GemmTilePlace tile, int rank) {
  tile.row += rank * C::kBm;
  tile.rows -= rank * C::kBm;
  return tile;
}

// Whether a warpgroup's results leave through shared memory: it has them all, and all of its rows exist.
__device__ __forceinline__ bool is_staged(const GemmParams& p, const GemmPiece& piece, int rows) {
  return !p.out_f32 && rows >= 64 && piece.steps == p.k_blocks;
}

// This warp has read its part of the stage; tells the producers of all CTAs that write to it.
template <class C>
__device__ __forceinline__ void release_stage(Mbarrier* empty) {
  const std::uint32_t lane = threadIdx.x % 32;
  if constexpr (C::kPair == 2) {
    if (lane < 2) mbarrier_arrive_cluster_relaxed(empty, lane);
  } else {
    if (lane == 0) mbarrier_arrive(empty);
  }
}

// The scales of a tile's weights, at most two rows of blocks, 32 blocks of K at a time: lane l holds block l.
struct WeightScales {
  const float* row[2];
  int steps;
  float now[2], next[2];

  __device__ WeightScales(const GemmParams& p, const GemmPiece& piece) : steps(piece.steps) {
    const int blocks = (p.n + 127) / 128, first = min(piece.tile.col / 128, blocks - 1);
    row[0] = p.w_scale + (static_cast<std::int64_t>(piece.tile.expert) * blocks + first) * p.w_scale_stride +
             piece.k;
    row[1] = first + 1 < blocks ? row[0] + p.w_scale_stride : row[0];
    load(0);
  }
  __device__ void load(int from) {
    const int at = min(from + static_cast<int>(threadIdx.x) % 32, steps - 1);
    next[0] = __ldg(row[0] + at);
    next[1] = __ldg(row[1] + at);
  }
  // Before step i, in order: keeps the following 32 on their way.
  __device__ void step(int i) {
    if (i % 32 != 0) return;
    now[0] = next[0];
    now[1] = next[1];
    if (i + 32 < steps) load(i + 32);
  }
};

// FP8: the tensor core's sums keep few bits, so a step of 128 starts from zero and is added in float32,
// scaled. Both sums leave registers for one multiply at a time, so what hides a warpgroup's additions is the
// other's multiplies.
template <class C>
struct Fp8Steps {
  static constexpr int kPart = C::kPartN / 2;  // floats
  // Columns that share a weight's scale wherever a tile begins.
  static constexpr int kGroup = C::kPartN % 128 == 0 ? 128 : 64;

  // acc: [kNi][kPart]. scale_row: of this thread among the copied scales. first_cols: how many of the tile's
  // columns have weights in the first row of scale blocks.
  __device__ __forceinline__ static void run(float (&acc)[C::kBn / 2], const GemmParams& p,
                                             const GemmPiece& piece, const GemmSmem<C>& smem,
                                             RingPlace<C::kStages>& at, int wg_row, int scale_row,
                                             int first_cols) {
    WeightScales scales(p, piece);
    for (int i = 0; i < piece.steps; ++i, at.advance()) {
      scales.step(i);
      const float sw0 = __shfl_sync(~0u, scales.now[0], i % 32),
                  sw1 = __shfl_sync(~0u, scales.now[1], i % 32);
      mbarrier_wait(&smem.full[at.stage], at.parity);
      const float* sx = smem.scale + at.stage * (C::kScaleBytes / 4) + scale_row;
      const float sx0 = sx[0], sx1 = sx[8];
      const std::uint32_t x = smem_address(smem.x + at.stage * C::kXBytes + wg_row * C::kRowBytes);
      const std::uint32_t w = smem_address(smem.w + at.stage * C::kWBytes);
      float part[kPart];
#pragma unroll
      for (int ni = 0; ni < C::kNi; ++ni) {
        multiply(part, x, w + ni * C::kPartN * C::kRowBytes);
        if (ni == C::kNi - 1) release_stage<C>(&smem.empty[at.stage]);
        add(acc, part, ni, sx0, sx1, sw0, sw1, first_cols);
      }
    }
  }

 private:
  __device__ __forceinline__ static void multiply(float (&part)[kPart], std::uint32_t x, std::uint32_t w) {
    const std::uint64_t a = wgmma_operand(x), b = wgmma_operand(w);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) wgmma_ss_e4m3<C::kPartN>(part, a + 2 * i, b + 2 * i, i > 0);
    wgmma_commit();
    wgmma_wait<0>();
  }

  __device__ __forceinline__ static void add(float (&acc)[C::kBn / 2], float (&part)[kPart], int ni,
                                             float sx0, float sx1, float sw0, float sw1, int first_cols) {
    wgmma_hold(part);
#pragma unroll
    for (int g = 0; g < C::kPartN / kGroup; ++g) {
      const int col = ni * C::kPartN + kGroup * g;
      // A tile of whole blocks begins with one.
      const bool second = C::kBn % 128 == 0 ? col >= 128 : col > 0 && col >= first_cols;
      const float s0 = sx0 * (second ? sw1 : sw0), s1 = sx1 * (second ? sw1 : sw0);
#pragma unroll
      for (int i = kGroup / 2 * g; i < kGroup / 2 * (g + 1); i += 4) {
        float* sum = &acc[ni * kPart + i];
        sum[0] += s0 * part[i];
        sum[1] += s0 * part[i + 1];
        sum[2] += s1 * part[i + 2];
        sum[3] += s1 * part[i + 3];
      }
    }
  }
};

template <class C>
__device__ __forceinline__ void multiply_bf16(float (&acc)[C::kBn / 2], const GemmPiece& piece,
                                              const GemmSmem<C>& smem, RingPlace<C::kStages>& at,
                                              int wg_row) {
  Mbarrier* last = nullptr;
  for (int i = 0; i < piece.steps; ++i, at.advance()) {
    mbarrier_wait(&smem.full[at.stage], at.parity);
    const std::uint64_t x =
        wgmma_operand(smem_address(smem.x + at.stage * C::kXBytes + wg_row * C::kRowBytes));
    const std::uint64_t w = wgmma_operand(smem_address(smem.w + at.stage * C::kWBytes));
    wgmma_fence();
#pragma unroll
    for (int j = 0; j < 4; ++j) wgmma_ss_bf16<C::kBn>(acc, x + 2 * j, w + 2 * j, true);
    wgmma_commit();
    wgmma_wait<1>();
    if (last != nullptr) release_stage<C>(last);
    last = &smem.empty[at.stage];
  }
  wgmma_wait<0>();
  wgmma_hold(acc);
  release_stage<C>(last);
}

// Results to where they belong: staged for the warp that sends them, or straight from registers.
template <class C>
__device__ __forceinline__ void hand_over(float (&acc)[C::kBn / 2], const GemmParams& p,
                                          const GemmPiece& piece, const GemmTilePlace& tile,
                                          const GemmSmem<C>& smem, int wg, std::uint32_t& sent_parity) {
  constexpr int kPart = C::kPartN / 2;
  const int rows = tile.rows - 64 * wg, cols = p.n - tile.col, row = tile.row + 64 * wg;
  finish(acc, p, row, tile.col, rows, cols);
  const bool staged = is_staged(p, piece, rows);
#pragma unroll
  for (int ni = 0; ni < C::kNi; ++ni) {
    const int first = ni * C::kPartN;
    if (first >= cols) break;
    if (staged) {
      mbarrier_wait(&smem.sent[wg], sent_parity);
      sent_parity ^= 1;
#pragma unroll
      for (int c = 0; c < C::kChunks; ++c) stage_bf16(&acc[ni * kPart + 32 * c], smem.chunk(wg, c));
      fence_proxy_async();
      __syncwarp();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(&smem.staged[wg]);
      continue;
    }
    const std::int64_t to = static_cast<std::int64_t>(row) * p.out_stride + tile.col + first;
    if (p.out_f32) {
      store_f32<kPart>(&acc[ni * kPart], static_cast<float*>(p.out) + to, p.out_stride, rows, cols - first);
    } else {
      store_bf16<kPart>(&acc[ni * kPart], static_cast<__nv_bfloat16*>(p.out) + to, p.out_stride, rows,
                        cols - first);
    }
  }
}

// Adds up a shared tile: true for the last warp, which then has the sums of all.
template <class C>
__device__ __forceinline__ bool meet(float (&acc)[C::kBn / 2], const GemmParams& p, const GemmPiece& piece,
                                     int warp) {
  if constexpr (!C::kParked) {
    return C::Sum::add(acc, p.split_place, piece.share, piece.sharer, warp, C::kBn / 8);
  } else {
    float parked[C::kBn / 2];
#pragma unroll
    for (int i = 0; i < C::kBn / 2; ++i) parked[i] = acc[i];
    if (!C::Sum::add(parked, p.split_place, piece.share, piece.sharer, warp, C::kBn / 8)) return false;
#pragma unroll
    for (int i = 0; i < C::kBn / 2; ++i) acc[i] = parked[i];
    return true;
  }
}

template <class C>
__device__ __forceinline__ void multiply(const GemmParams& p, GemmSmem<C>& smem, int rank) {
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32 - 4, 0);  // uniform, and known to be
  const int wg = warp / 4;
  RingPlace<C::kStages> at;
  std::uint32_t sent_parity = 1;
  for (GemmPiece piece = smem.pieces.hear(); piece.steps > 0; piece = smem.pieces.hear()) {
    const GemmTilePlace tile = own_part<C>(piece.tile, rank);
    if (tile.rows <= 64 * wg) {
      for (int i = 0; i < piece.steps; ++i, at.advance()) {
        mbarrier_wait(&smem.full[at.stage], at.parity);
        release_stage<C>(&smem.empty[at.stage]);
      }
      continue;
    }
    float acc[C::kBn / 2] = {};
    if constexpr (C::kFp8) {
      const int scale_row = 16 * warp + static_cast<int>(threadIdx.x) % 32 / 4 + tile.row % 4;
      Fp8Steps<C>::run(acc, p, piece, smem, at, 64 * wg, scale_row, 128 - tile.col % 128);
    } else {
      multiply_bf16<C>(acc, piece, smem, at, 64 * wg);
    }
    if constexpr (C::kSplit) {
      // Where another CTA's warp comes later, it has the rest.
      if (piece.steps < p.k_blocks && !meet<C>(acc, p, piece, warp)) continue;
    }
    hand_over<C>(acc, p, piece, tile, smem, wg, sent_parity);
  }
}

}  // namespace trireme::cuda
