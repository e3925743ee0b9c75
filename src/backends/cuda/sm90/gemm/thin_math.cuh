#pragma once
// What the math warps of the thin kernel do with a piece: multiply the stages as they arrive, release them,
// add the sums of those who share the tile, store.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/sm90/gemm/thin_store.cuh"
#include "backends/cuda/sm90/gemm/thin_walk.cuh"
#include "backends/cuda/sm90/gemm/thin_wgmma.cuh"

namespace trireme::cuda {

template <class C>
struct ThinSmem;

// A place in the ring of stages and the parity of the round.
template <int kStages>
struct ThinRing {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The scales of the 128 rows of weights that a warpgroup is in, along a piece: lane l holds step l of 32.
struct ThinWeightScales {
  const float* row;
  int steps;
  float now, next;

  __device__ void begin(const ThinParams& p, const ThinPiece& piece, int wg_row) {
    const int blocks = (p.n + 127) / 128;
    const int block = piece.expert * blocks + min((piece.col + wg_row) / 128, blocks - 1);
    row = p.w_scale + static_cast<std::int64_t>(block) * p.w_scale_stride + piece.k;
    steps = piece.steps;
    load(0);
  }
  __device__ void load(int from) { next = __ldg(row + min(from + static_cast<int>(threadIdx.x) % 32, steps - 1)); }
  // Of step i; in order.
  __device__ float of(int i) {
    if (i % 32 == 0) {
      now = next;
      if (i + 32 < steps) load(i + 32);
    }
    return __shfl_sync(~0u, now, i % 32);
  }
};

// The tensor core's sums keep few bits, so a step of 128 starts from zero and is added in float32, scaled.
template <class C>
__device__ __forceinline__ void multiply_piece(float (&acc)[C::Sum::kFloats], const ThinPiece& piece,
                                               const ThinSmem<C>& smem, ThinRing<C::kStages>& at,
                                               ThinWeightScales& scales, int wg_row) {
  constexpr int kPart = C::kTokens / 2;
  constexpr int kAhead = C::kTokens <= 64 ? C::kBlocks : 1;  // multiplies of 64 rows whose registers fit
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = piece.row % 4 + 2 * (lane % 4);
  for (int i = 0; i < piece.steps; ++i, at.advance()) {
    const float sw = scales.of(i);
    mbarrier_wait(&smem.full[at.stage], at.parity);
    const std::uint32_t w = smem_address(smem.w + at.stage * C::kWBytes + wg_row * 128);
    const std::uint64_t b = wgmma_operand(smem_address(smem.x + at.stage * C::kXBytes));
    float part[kAhead][kPart];
    const float* sx = smem.scale + at.stage * C::kScaleStride + token;
    float s[C::kTokens / 8][2];
#pragma unroll
    for (int j = 0; j < C::kTokens / 8; ++j) {
      s[j][0] = sx[8 * j] * sw;
      s[j][1] = sx[8 * j + 1] * sw;
    }
#pragma unroll
    for (int from = 0; from < C::kBlocks; from += kAhead) {
      wgmma_fence();
#pragma unroll
      for (int m = 0; m < kAhead; ++m) {
        const std::uint64_t a = wgmma_operand(w + (from + m) * 64 * 128);
#pragma unroll
        for (int k = 0; k < 4; ++k) wgmma_thin<C::kTokens>(part[m], a + 2 * k, b + 2 * k, k > 0);
        wgmma_commit();
      }
#pragma unroll
      for (int m = 0; m < kAhead; ++m) {
        if (m + 1 < kAhead) {
          wgmma_wait<kAhead - 1>();
        } else {
          wgmma_wait<0>();
          if (from + kAhead == C::kBlocks && lane == 0) mbarrier_arrive(&smem.empty[at.stage]);
        }
        wgmma_hold(part[m]);
#pragma unroll
        for (int j = 0; j < C::kTokens / 8; ++j) {
          float* sum = &acc[(from + m) * kPart + 4 * j];
          sum[0] += s[j][0] * part[m][4 * j];
          sum[1] += s[j][1] * part[m][4 * j + 1];
          sum[2] += s[j][0] * part[m][4 * j + 2];
          sum[3] += s[j][1] * part[m][4 * j + 3];
        }
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void multiply_thin(const ThinParams& p, const ThinSmem<C>& smem, int warp) {
  const int wg_row = warp / 4 * (C::kWeights / 2);
  if (p.counts != nullptr) grid_dependency_wait();
  ThinWalk<C::kTokens, C::kWeights> walk(p);
  ThinRing<C::kStages> at;
  ThinWeightScales scales;
  ThinPiece piece;
  bool more = walk.next(piece);
  if (more) scales.begin(p, piece, wg_row);
  grid_dependency_wait();
  while (more) {
    float acc[C::Sum::kFloats] = {};
    multiply_piece<C>(acc, piece, smem, at, scales, wg_row);
    const ThinPiece done = piece;
    more = walk.next(piece);
    if (more) scales.begin(p, piece, wg_row);  // on their way while this piece is stored
    const SplitShare share = walk.share(done);
    if (!share.alone() && !C::Sum::add(acc, p.split, share, static_cast<int>(blockIdx.x), warp,
                                       (min(done.rows, C::kTokens) + 7) / 8))
      continue;
    const int row = done.col + wg_row + warp % 4 * 16;
    const std::int64_t first = static_cast<std::int64_t>(done.row) * p.out_stride + row;
#pragma unroll
    for (int m = 0; m < C::kBlocks; ++m) {
      const float(&part)[C::kTokens / 2] = reinterpret_cast<const float(&)[C::kTokens / 2]>(acc[m * C::kTokens / 2]);
      if (p.out_f32) {
        store_thin_f32(part, static_cast<float*>(p.out) + first + 64 * m, p.out_stride, done.rows,
                       p.n - row - 64 * m);
      } else {
        store_thin_bf16(part, static_cast<__nv_bfloat16*>(p.out) + first + 64 * m, p.out_stride, done.rows,
                        p.n - row - 64 * m);
      }
    }
  }
}

}  // namespace trireme::cuda
