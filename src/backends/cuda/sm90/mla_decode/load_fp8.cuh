// The loading warpgroup for an FP8 cache: codes go through registers, become BF16 and enter the same swizzled
// boxes that the BF16 cache's copies fill.
#pragma once
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "backends/cuda/prim/wgmma.cuh"
#include "backends/cuda/sm90/mla_decode/load.cuh"

namespace trireme::cuda::mla {

inline constexpr int kFp8Token = 656;             // bytes: 512 codes, 4 scales, 64 rope values
inline constexpr int kFp8RopeColumn = 528 / 2;    // of a token seen as BF16
inline constexpr int kFp8TokenColumns = 656 / 2;  // likewise

__device__ __forceinline__ std::uint32_t dequantise_pair(std::uint16_t codes, float scale) {
  const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(codes, __NV_E4M3);
  const float2 f = __half22float2(__half2(h));
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(f.y * scale), "f"(f.x * scale));
  return r;
}

__device__ __forceinline__ uint4 dequantise_8(std::uint32_t a, std::uint32_t b, float scale) {
  return make_uint4(dequantise_pair(static_cast<std::uint16_t>(a), scale),
                    dequantise_pair(static_cast<std::uint16_t>(a >> 16), scale),
                    dequantise_pair(static_cast<std::uint16_t>(b), scale),
                    dequantise_pair(static_cast<std::uint16_t>(b >> 16), scale));
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

// thread: of 128. A warp turns 16 tokens into BF16; four lanes share a token's 64 codes of a box.
__device__ void load_pages_fp8(SharedMemory& s, const Params& p, const Maps& maps, const Part& part, int thread) {
  const int warp = thread / 32, lane = thread % 32, quarter = lane & 3;
  const int first_token = warp * 16 + lane / 4;  // and 8 on
  PageWalk walk(p, part);
  if (walk.ended()) return;
  Prefetcher prefetcher(p, part, thread == 96);
  const auto data_of = [&](int block) {
    return p.cache + static_cast<std::int64_t>(block) * p.page_bytes + first_token * kFp8Token;
  };
  const unsigned char* source = data_of(walk.block);  // of `next`
  Fp8Half next;
  next.load_scales(source, 0);
#pragma unroll
  for (int b = 0; b < 4; ++b) next.load_box(source, 0, b, quarter);

  std::uint32_t unit_count = 0;
  int unit = -1;
  for (std::uint32_t count = 0; !walk.ended(); ++count) {
    const int buffer = static_cast<int>(count & 1);
    const std::uint32_t free_parity = ((count >> 1) & 1) ^ 1;
    if (thread == 0) {
      if (walk.unit != unit) {
        unit = walk.unit;
        load_q(s, maps, part.units[unit].row + part.tile * kTileRows, unit_count++);
      }
      mbarrier_wait(&s.k_rope_free[buffer], free_parity);
      mbarrier_arrive_expect_tx(&s.k_full[buffer][kRopeBox], kBoxBytes);
      tma_load_2d(s.k[buffer][kRopeBox], &maps.cache, &s.k_full[buffer][kRopeBox], kFp8RopeColumn,
                  walk.block * kPage, L2Hint::evict_first);
    }
    __syncwarp();
    walk.next();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int half = i ^ buffer;  // the owner's own half is free first, and its scores start there
      const float2 scales[2] = {next.scales[0], next.scales[1]};
      // After this page's first half its second, then the next page's first, which is the same half.
      const int next_half = buffer ^ 1;
      if (i == 1 && !walk.ended()) source = data_of(walk.block);
      mbarrier_wait(&s.k_half_free[buffer][half], free_parity);
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        unsigned char* const box = reinterpret_cast<unsigned char*>(s.k[buffer][half * 4 + b]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int token = first_token + 8 * j;
          const uint4 codes = next.codes[b][j];
          const float scale = b < 2 ? scales[j].x : scales[j].y;
          uint4* const row = reinterpret_cast<uint4*>(box + token * 128);
          row[(quarter * 2) ^ (token & 7)] = dequantise_8(codes.x, codes.y, scale);
          row[(quarter * 2 + 1) ^ (token & 7)] = dequantise_8(codes.z, codes.w, scale);
        }
        fence_proxy_async_smem();
        __syncwarp();
        if (lane == 0) mbarrier_arrive(&s.k_full[buffer][half * 4 + b]);
      }
      // Not earlier: the fences above would wait for loads under way.
      next.load_scales(source, next_half);
#pragma unroll
      for (int b = 0; b < 4; ++b) next.load_box(source, next_half, b, quarter);
    }
    if (thread == 96) prefetcher.step();
    __syncwarp();
  }
}

}  // namespace trireme::cuda::mla
