// The loading warpgroup for an FP8 cache: codes go through registers, become BF16 and enter the same swizzled
// boxes that the BF16 cache's copies fill.
#pragma once
#include <cuda_bf16.h>

#include "backends/cuda/prim/wgmma.cuh"
#include "backends/cuda/sm90/mla_decode/load.cuh"

namespace trireme::cuda::mla {

inline constexpr int kFp8PrefetchPages = 3;
inline constexpr int kFp8Token = 656;             // bytes: 512 codes, 4 scales, 64 rope values
inline constexpr int kFp8RopeColumn = 528 / 2;    // of a token seen as BF16
inline constexpr int kFp8TokenColumns = 656 / 2;  // likewise

// A scale times 2^120 as the sum of two BF16 values, each twice.
struct SplitScale {
  __nv_bfloat162 high, low;

  __device__ __forceinline__ explicit SplitScale(float scale) {
    const float raised = scale * 0x1p120f;
    const __nv_bfloat16 h = __float2bfloat16_rn(raised);
    high = __bfloat162bfloat162(h);
    low = __bfloat162bfloat162(__float2bfloat16_rn(raised - __bfloat162float(h)));
  }
};

// Two codes, in the upper bytes of the halves of `pair`, times the scale. An e4m3 value whose exponent bits
// enter a BF16 field as they are is 2^-120 of itself, subnormals too; the product is rounded once but for the
// share of the scale's low part.
__device__ __forceinline__ std::uint32_t dequantise_pair(std::uint32_t pair, const SplitScale& s) {
  const std::uint32_t bits = (pair & 0x80008000u) | ((pair & 0x7F007F00u) >> 4);
  const __nv_bfloat162 x = *reinterpret_cast<const __nv_bfloat162*>(&bits);
  const __nv_bfloat162 y = __hfma2(x, s.high, __hmul2(x, s.low));
  return *reinterpret_cast<const std::uint32_t*>(&y);
}

__device__ __forceinline__ uint4 dequantise_8(std::uint32_t a, std::uint32_t b, const SplitScale& s) {
  return make_uint4(
      dequantise_pair(__byte_perm(a, 0, 0x1404), s), dequantise_pair(__byte_perm(a, 0, 0x3424), s),
      dequantise_pair(__byte_perm(b, 0, 0x1404), s), dequantise_pair(__byte_perm(b, 0, 0x3424), s));
}

// What one thread carries of half a page: 16 codes of each of 4 boxes, of 2 tokens.
struct Fp8Half {
  uint4 codes[4][2];
  float2 scales[2];

  __device__ __forceinline__ void load_scales(const unsigned char* token, int half) {
    scales[0] = *reinterpret_cast<const float2*>(token + kLatent + half * 8);
    scales[1] = *reinterpret_cast<const float2*>(token + 8 * kFp8Token + kLatent + half * 8);
  }
  __device__ __forceinline__ void load_box(const unsigned char* token, int half, int b, int quarter) {
    const int column = (half * 4 + b) * 64 + quarter * 16;
    codes[b][0] = *reinterpret_cast<const uint4*>(token + column);
    codes[b][1] = *reinterpret_cast<const uint4*>(token + 8 * kFp8Token + column);
  }
};

// Asks L2 for pages ahead, so that the loads of codes are short.
__device__ __forceinline__ void prefetch_ahead(const Params& p, const PageWalk& walk) {
  for (int ahead = walk.page == walk.first ? 1 : kFp8PrefetchPages; ahead <= kFp8PrefetchPages; ++ahead) {
    const int block = walk.block_ahead(ahead);
    if (block >= 0 && walk.lane == 0)
      prefetch_l2(p.cache + static_cast<std::int64_t>(block) * p.page_bytes, p.page_bytes);
  }
}

// thread: of 128. A warp turns 16 tokens into BF16; four lanes share a token's 64 codes of a box.
__device__ void load_pages_fp8(SharedMemory& s, const Params& p, const Maps& maps, const Part& part,
                               int thread) {
  const int warp = thread / 32, lane = thread % 32, quarter = lane & 3;
  const int first_token = warp * 16 + lane / 4;  // and 8 on
  PageWalk walk(p, part);
  if (walk.ended()) return;
  const auto data_of = [&](int block) {
    return p.cache + static_cast<std::int64_t>(block) * p.page_bytes + first_token * kFp8Token;
  };
  const unsigned char* source = data_of(walk.block());  // of `next`
  Fp8Half next;
  next.load_scales(source, 0);
#pragma unroll
  for (int b = 0; b < 4; ++b) next.load_box(source, 0, b, quarter);

  std::uint32_t unit_count = 0;
  int unit = -1;
  for (std::uint32_t count = 0; !walk.ended(); ++count) {
    const int buffer = static_cast<int>(count & 1);
    const std::uint32_t free_parity = ((count >> 1) & 1) ^ 1;
    if (warp == 3) prefetch_ahead(p, walk);
    const int rope_row = walk.block() * kPage, q_row = walk.q_row();
    if (thread == 0) {
      if (walk.unit != unit) load_q(s, maps, q_row, unit_count);
      mbarrier_wait(&s.k_rope_free[buffer], free_parity);
      mbarrier_arrive_expect_tx(&s.k_full[buffer][kRopeBox], kBoxBytes);
      tma_load_2d(s.k[buffer][kRopeBox], &maps.cache, &s.k_full[buffer][kRopeBox], kFp8RopeColumn, rope_row,
                  L2Hint::evict_first);
    }
    if (walk.unit != unit) ++unit_count;
    unit = walk.unit;
    __syncwarp();
    walk.next();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int half = i ^ buffer;  // the owner's own half is free first, and its scores start there
      const float2 scales[2] = {next.scales[0], next.scales[1]};
      // After this page's first half its second, then the next page's first, which is the same half.
      const int next_half = buffer ^ 1;
      if (i == 1 && !walk.ended()) source = data_of(walk.block());
      mbarrier_wait(&s.k_half_free[buffer][half], free_parity);
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        unsigned char* const box = reinterpret_cast<unsigned char*>(s.k[buffer][half * 4 + b]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int token = first_token + 8 * j;
          const uint4 codes = next.codes[b][j];
          const SplitScale scale(b < 2 ? scales[j].x : scales[j].y);
          uint4* const row = reinterpret_cast<uint4*>(box + token * 128);
          row[(quarter * 2) ^ (token & 7)] = dequantise_8(codes.x, codes.y, scale);
          row[(quarter * 2 + 1) ^ (token & 7)] = dequantise_8(codes.z, codes.w, scale);
        }
        fence_proxy_async();
        __syncwarp();
        if (lane == 0) mbarrier_arrive(&s.k_full[buffer][half * 4 + b]);
      }
      // Not earlier: the fences above would wait for loads under way.
      next.load_scales(source, next_half);
#pragma unroll
      for (int b = 0; b < 4; ++b) next.load_box(source, next_half, b, quarter);
    }
  }
}

}  // namespace trireme::cuda::mla
