#pragma once
// What the math warpgroups of the thin kernel do with a piece: multiply the stages as they arrive, release
// them, add what others have of the tile, store.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/gemm/thin_store.cuh"
#include "backends/cuda/sm90/gemm/thin_walk.cuh"

namespace trireme::cuda {

template <class C>
struct ThinSmem;

// A place in the ring of stages and the parity of the round.
template <int kStages>
struct ThinRing {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ void advance(int steps) {
    stage += steps;
    parity ^= static_cast<std::uint32_t>(stage) / kStages & 1;
    stage = static_cast<int>(static_cast<std::uint32_t>(stage) % kStages);
  }
};

// The scales of the 128 rows of weights that a warpgroup is in, of its turns in a piece: lane l holds turn l
// of 32.
template <int kWgK>
struct ThinWeightScales {
  const float* row;
  int turn, steps;
  float now, next;

  __device__ void begin(const ThinParams& p, const ThinPiece& piece, int wg_row, int wg_turn) {
    const int blocks = (p.n + 127) / 128;
    const int block = piece.expert * blocks + min((piece.col + wg_row) / 128, blocks - 1);
    row = p.w_scale + static_cast<std::int64_t>(block) * p.w_scale_stride + piece.k;
    turn = wg_turn;
    steps = piece.steps;
    load(0);
  }
  __device__ void load(int from) {
    next = __ldg(row + min(turn + kWgK * (from + static_cast<int>(threadIdx.x) % 32), steps - 1));
  }
  // Of turn i; in order.
  __device__ float of(int i) {
    if (i % 32 == 0) {
      now = next;
      load(i + 32);
    }
    return __shfl_sync(~0u, now, i % 32);
  }
};

// Two rows of the weights by two tokens.
__device__ __forceinline__ void add_scaled(float* sum, const float* part, float s0, float s1) {
  sum[0] += s0 * part[0];
  sum[1] += s1 * part[1];
  sum[2] += s0 * part[2];
  sum[3] += s1 * part[3];
}

// The tensor core's sums keep few bits, so a step of 128 starts from zero and is added in float32, scaled.
// first_scale: where the tile's scales of tokens begin among those copied.
template <class C>
__device__ __forceinline__ void multiply_piece(float (&acc)[C::kTokens / 2], int steps, int first_scale,
                                               const ThinSmem<C>& smem, ThinRing<C::kStages> at,
                                               ThinWeightScales<C::kWgK>& scales, int wg_row, int turn) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = first_scale + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < C::kTokens / 2; ++i) acc[i] = 0;
  if constexpr (C::kWgK > 1) at.advance(turn);
  for (int i = 0; turn + C::kWgK * i < steps; ++i, at.advance(C::kWgK)) {
    const float sw = scales.of(i);
    mbarrier_wait(&smem.full[at.stage], at.parity);
    const std::uint64_t a = wgmma_operand(smem_address(smem.w + at.stage * C::kWBytes + wg_row * 128));
    const std::uint64_t b = wgmma_operand(smem_address(smem.x + at.stage * C::kXBytes));
    float part[C::kTokens / 2];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_ss_e4m3<C::kTokens>(part, a + 2 * k, b + 2 * k, k > 0);
    wgmma_commit();
    const float* sx = smem.scale + at.stage * C::kScaleStride + token;
    if constexpr (C::kScalesFirst) {
      float s[C::kTokens / 8][2];
#pragma unroll
      for (int j = 0; j < C::kTokens / 8; ++j) {
        s[j][0] = sx[8 * j] * sw;
        s[j][1] = sx[8 * j + 1] * sw;
      }
      wgmma_wait<0>();
      if (lane == 0) mbarrier_arrive(&smem.empty[at.stage]);
      wgmma_hold(part);
#pragma unroll
      for (int j = 0; j < C::kTokens / 8; ++j) add_scaled(&acc[4 * j], &part[4 * j], s[j][0], s[j][1]);
    } else {
      wgmma_wait<0>();
      wgmma_hold(part);
#pragma unroll
      for (int j = 0; j < C::kTokens / 8; ++j) {
        add_scaled(&acc[4 * j], &part[4 * j], sx[8 * j] * sw, sx[8 * j + 1] * sw);
      }
      __syncwarp();
      if (lane == 0) mbarrier_arrive(&smem.empty[at.stage]);
    }
  }
}

// Those who took turns with a piece exchange their sums, in the order of the turns: of owner o's tokens into
// `own` of owner o.
template <class C>
__device__ __forceinline__ void add_turns(const float (&acc)[C::kTokens / 2], float (&own)[C::kOwnTokens / 2],
                                          const ThinSmem<C>& smem, int wg_m, int turn) {
  constexpr int kGroups = C::kOwnTokens / 8;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  float4* all = smem.turns + wg_m * C::kOwners * (C::kWgK - 1) * kGroups * 128 + thread;
#pragma unroll
  for (int o = 0; o < C::kOwners; ++o) {
    if (o == turn) {
#pragma unroll
      for (int i = 0; i < C::kOwnTokens / 2; ++i) own[i] = acc[o * C::kOwnTokens / 2 + i];
    } else {
      float4* theirs = all + (o * (C::kWgK - 1) + turn - (turn > o ? 1 : 0)) * kGroups * 128;
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        const float* a = &acc[o * C::kOwnTokens / 2 + 4 * i];
        theirs[i * 128] = make_float4(a[0], a[1], a[2], a[3]);
      }
    }
  }
  const auto id = static_cast<std::uint32_t>(1 + wg_m);
  named_barrier_sync(id, 128 * C::kWgK);
  if (turn < C::kOwners) {
    const float4* mine = all + turn * (C::kWgK - 1) * kGroups * 128;
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int t = 0; t < C::kWgK; ++t) {
        float4 v = make_float4(own[4 * i], own[4 * i + 1], own[4 * i + 2], own[4 * i + 3]);
        if (t != turn) v = mine[((t > turn ? t - 1 : t) * kGroups + i) * 128];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
      }
      own[4 * i] = sum.x;
      own[4 * i + 1] = sum.y;
      own[4 * i + 2] = sum.z;
      own[4 * i + 3] = sum.w;
    }
  }
  named_barrier_sync(id, 128 * C::kWgK);
}

// A warp's 16 rows of the weights by kOwnTokens tokens from `first` on.
template <class C>
__device__ __forceinline__ void finish(float (&own)[C::kOwnTokens / 2], const ThinParams& p,
                                       const ThinPiece& piece, int warp_of_sum, int first, int row) {
  const int tokens = piece.rows - first;
  if (tokens <= 0) return;
  if (piece.steps < p.k_blocks) {
    const int used = (min(tokens, C::kOwnTokens) + 7) / 8;
    if (!C::Sum::add(own, p.split, piece.share, static_cast<int>(blockIdx.x), warp_of_sum, used)) return;
  }
  const int col = piece.col + row;
  finish_thin(own, p.finish, p.out_f32, piece.row + first, col, tokens, p.n - col);
  const std::int64_t out = static_cast<std::int64_t>(piece.row + first) * p.out_stride + col;
  if (p.out_f32) {
    store_thin_f32(own, static_cast<float*>(p.out) + out, p.out_stride, tokens, p.n - col);
  } else {
    store_thin_bf16(own, static_cast<__nv_bfloat16*>(p.out) + out, p.out_stride, tokens, p.n - col);
  }
}

template <class C>
__device__ __forceinline__ void multiply_thin(const ThinParams& p, const ThinSmem<C>& smem, int warp) {
  const int wg_m = warp / 4 % C::kWgM, turn = warp / 4 / C::kWgM;
  ThinRing<C::kStages> at;
  ThinRing<C::kPieces> told;
  ThinWeightScales<C::kWgK> scales;
  float acc[C::kTokens / 2];
  const ThinPiece* last = nullptr;  // multiplied, to be stored when the scales of the next are on their way
  Mbarrier* last_empty = nullptr;
  for (;; told.next()) {
    mbarrier_wait(&smem.piece_full[told.stage], told.parity);
    const ThinPiece& piece = smem.pieces[told.stage];
    const int steps = piece.steps;
    if (steps > 0) scales.begin(p, piece, 64 * wg_m, turn);
    if (last == nullptr) {
      grid_dependency_wait();
    } else {
      const int row = 64 * wg_m + warp % 4 * 16;
      if constexpr (C::kWgK > 1) {
        float own[C::kOwnTokens / 2];
        add_turns<C>(acc, own, smem, wg_m, turn);
        if (turn < C::kOwners) {
          finish<C>(own, p, *last, (wg_m * C::kOwners + turn) * 4 + warp % 4, turn * C::kOwnTokens, row);
        }
      } else {
        finish<C>(acc, p, *last, warp, 0, row);
      }
      __syncwarp();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(last_empty);
    }
    if (steps == 0) return;
    last = &piece;
    last_empty = &smem.piece_empty[told.stage];
    multiply_piece<C>(acc, steps, piece.row % 4, smem, at, scales, 64 * wg_m, turn);
    at.advance(steps);
  }
}

}  // namespace trireme::cuda
