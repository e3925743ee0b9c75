#pragma once
// What a math warpgroup does with a piece: multiply the stages as they arrive, release them, hand over the
// results.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/sm90/gemm/gather.cuh"
#include "backends/cuda/sm90/gemm/piece_walk.cuh"
#include "backends/cuda/sm90/gemm/stage_release.cuh"

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

// Of a piece's weights the first scale, and that of the second row of blocks that it may have.
struct WeightScaleRows {
  const float* row[2];
  __device__ WeightScaleRows(const GemmParams& p, const GemmPiece& piece) {
    const int blocks = (p.n + 127) / 128, first = min(piece.tile.col / 128, blocks - 1);
    row[0] = p.w_scale + (static_cast<std::int64_t>(piece.tile.expert) * blocks + first) * p.w_scale_stride +
             piece.k;
    row[1] = first + 1 < blocks ? row[0] + p.w_scale_stride : row[0];
  }
  // Into this SM's cache, by the warp that feeds it.
  __device__ void prefetch(int steps) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, at = lane / 2 * 32;
    if (at < steps) prefetch_l1((lane % 2 == 0 ? row[0] : row[1]) + at);
  }
};

// The scales of a tile's weights, at most two rows of blocks, 32 blocks of K at a time: lane l holds block l.
struct WeightScales {
  const float* row[2];
  int steps;
  float now[2], next[2];

  // Its first loads are on their way when it returns.
  __device__ void begin(const GemmParams& p, const GemmPiece& piece) {
    const WeightScaleRows rows(p, piece);
    row[0] = rows.row[0], row[1] = rows.row[1];
    steps = piece.steps;
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
// scaled. Both sums leave registers for one multiply at a time: what hides a warpgroup's additions is the
// other's multiplies, so between two multiplies stands nothing but additions. The wait for the next stage and
// its scales go in the shadow of a multiply.
template <class C>
class Fp8Steps {
 public:
  // acc: [kNi][kPart], zero. scale_row: of this thread among the copied scales. first_cols: how many of the
  // tile's columns have weights in the first row of scale blocks.
  __device__ __forceinline__ static void run(float (&acc)[C::kBn / 2], const GemmPiece& piece,
                                             const GemmSmem<C>& smem, RingPlace<C::kStages>& at,
                                             WeightScales& weights, int wg, int scale_row, int first_cols) {
    const std::uint64_t x0 = wgmma_operand(smem_address(smem.x + wg * 64 * C::kRowBytes));
    const std::uint64_t w0 = wgmma_operand(smem_address(smem.w));
    const auto scales = [&](int step) {
      mbarrier_wait(&smem.full[at.stage], at.parity);
      return Scales(weights, step, smem.scale + at.stage * (C::kScaleBytes / 4) + scale_row, first_cols);
    };
    Scales now = scales(0), next;
    int i = 0;
#pragma unroll C::kUnroll
    do {
      const std::uint64_t x = x0 + static_cast<std::uint32_t>(at.stage * (C::kXBytes / 16));
      const std::uint64_t w = w0 + static_cast<std::uint32_t>(at.stage * (C::kWBytes / 16));
      const std::uint32_t empty = release_address<C::kPair>(&smem.empty[at.stage]);
      at.advance();
      ++i;
      float part[kPart];
#pragma unroll
      for (int ni = 0; ni < C::kNi; ++ni) {
        multiply(part, x, w + ni * (C::kPartN * C::kRowBytes / 16));
        const bool last = ni == C::kNi - 1;
        if (last && i < piece.steps) next = scales(i);
        wgmma_wait<0>();
        if (last) release_at<C::kPair>(empty);
        add(&acc[ni * kPart], part, &now.of[ni * kPart / kGroup]);
      }
      now = next;
    } while (i < piece.steps);
  }

 private:
  static constexpr int kPart = C::kPartN / 2;  // floats
  // Floats of columns that share a weight's scale wherever a tile begins.
  static constexpr int kGroup = C::kPartN % 128 == 0 ? 64 : 32;

  // Of a step, rows and weights multiplied: for this thread's rows r and r + 8.
  struct Scales {
    float2 of[C::kBn / 2 / kGroup];

    Scales() = default;
    __device__ __forceinline__ Scales(WeightScales& weights, int step, const float* rows, int first_cols) {
      weights.step(step);
      const float w0 = __shfl_sync(~0u, weights.now[0], step % 32),
                  w1 = __shfl_sync(~0u, weights.now[1], step % 32);
      const float r0 = rows[0], r1 = rows[8];
#pragma unroll
      for (int g = 0; g < C::kBn / 2 / kGroup; ++g) {
        // A tile of whole blocks begins with one; another has two in its first 128 columns or its last.
        const bool second = C::kBn % 128 == 0 ? g > 0 : g > 1 || (g == 1 && first_cols <= 64);
        const float w = second ? w1 : w0;
        of[g] = make_float2(r0 * w, r1 * w);
      }
    }
  };

  __device__ __forceinline__ static void multiply(float (&part)[kPart], std::uint64_t x, std::uint64_t w) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) wgmma_ss_e4m3<C::kPartN>(part, x + 2 * i, w + 2 * i, i > 0);
    wgmma_commit();
  }

  // One row after the other: a scale that the next addition reads again need not be fetched again, which
  // made tiles of 128 x 256 up to 4% faster.
  __device__ __forceinline__ static void add(float* sum, float (&part)[kPart], const float2* scale) {
    wgmma_hold(part);
#pragma unroll
    for (int i = 0; i < kPart; i += 4) {
      sum[i] += scale[i / kGroup].x * part[i];
      sum[i + 1] += scale[i / kGroup].x * part[i + 1];
    }
#pragma unroll
    for (int i = 2; i < kPart; i += 4) {
      sum[i] += scale[i / kGroup].y * part[i];
      sum[i + 1] += scale[i / kGroup].y * part[i + 1];
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
    if (last != nullptr) release_stage<C::kPair>(last);
    last = &smem.empty[at.stage];
  }
  wgmma_wait<0>();
  wgmma_hold(acc);
  release_stage<C::kPair>(last);
}

// Results to where they belong: staged for the warp that sends them, or straight from registers.
template <class C>
__device__ __forceinline__ void hand_over(float (&acc)[C::kBn / 2], const GemmParams& p,
                                          const GemmPiece& piece, const GemmTilePlace& tile,
                                          const GemmSmem<C>& smem, int wg, std::uint32_t& sent_parity) {
  constexpr int kPart = C::kPartN / 2;
  const int rows = tile.rows - 64 * wg, cols = p.n - tile.col, row = tile.row + 64 * wg;
  finish<C::kBn / 2>(acc, p, row, tile.col, rows, cols);
  const bool staged = is_staged(p, piece, rows);
#pragma unroll
  for (int ni = 0; ni < C::kNi; ++ni) {
    const int first = ni * C::kPartN;
    if (first >= cols) break;
    if (staged) {
#pragma unroll
      for (int c = 0; c < C::kChunks; ++c) {
        mbarrier_wait(&smem.sent[wg * C::kChunks + c], sent_parity);
        stage_bf16(&acc[ni * kPart + 32 * c], smem.chunk(wg, c));
        fence_proxy_async();
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(&smem.staged[wg * C::kChunks + c]);
      }
      sent_parity ^= 1;
      continue;
    }
    const std::int64_t to = static_cast<std::int64_t>(row) * p.out_stride + tile.col + first;
    if (p.out_f32) {
      store_f32<kPart>(&acc[ni * kPart], static_cast<float*>(p.out) + to, p.out_stride, rows, cols - first,
                       always_zero(p));
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
  const std::uint32_t none = always_zero(p);
  float parked[C::kBn / 2];
#pragma unroll
  for (int i = 0; i < C::kBn / 2; ++i) parked[i] = elsewhere(acc[i], none);
  if (!C::Sum::add(parked, p.split_place, piece.share, piece.sharer, warp, C::kBn / 8)) return false;
#pragma unroll
  for (int i = 0; i < C::kBn / 2; ++i) acc[i] = elsewhere(parked[i], none);
  return true;
}

template <class C>
__device__ __forceinline__ void multiply(const GemmParams& p, GemmSmem<C>& smem, int rank) {
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32 - 4, 0);  // uniform, and known to be
  const int wg = warp / 4;
  RingPlace<C::kStages> at;
  std::uint32_t sent_parity = 1;
  WeightScales weights;
  GemmPiece next = smem.pieces.hear();
  if (C::kFp8 && next.steps > 0) weights.begin(p, next);
  while (next.steps > 0) {
    const GemmPiece piece = next;
    const GemmTilePlace tile = own_part<C>(piece.tile, rank);
    float acc[C::kBn / 2] = {};
    const bool mine = tile.rows > 64 * wg;
    if (!mine) {
      for (int i = 0; i < piece.steps; ++i, at.advance()) {
        mbarrier_wait(&smem.full[at.stage], at.parity);
        release_stage<C::kPair>(&smem.empty[at.stage]);
      }
    } else if constexpr (C::kFp8) {
      const int scale_row = 16 * warp + static_cast<int>(threadIdx.x) % 32 / 4 + tile.row % 4;
      Fp8Steps<C>::run(acc, piece, smem, at, weights, wg, scale_row, 128 - tile.col % 128);
    } else {
      multiply_bf16<C>(acc, piece, smem, at, 64 * wg);
    }
    // Before the results are handed over: memory answers meanwhile.
    next = smem.pieces.hear();
    if (C::kFp8 && next.steps > 0) weights.begin(p, next);
    if constexpr (C::kGather) {
      gather<C>(acc, p, tile, smem, warp);
      continue;
    }
    if (!mine) continue;
    if constexpr (C::kSplit) {
      // Where another CTA's warp comes later, it has the rest.
      if (piece.steps < p.k_blocks && !meet<C>(acc, p, piece, warp)) continue;
    }
    hand_over<C>(acc, p, piece, tile, smem, wg, sent_parity);
  }
}

}  // namespace trireme::cuda
