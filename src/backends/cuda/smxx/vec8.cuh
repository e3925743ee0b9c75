// Eight BF16 values: what a thread of the elementwise kernels moves at once, and how it makes FP8 of them.
#pragma once
#include <cstdint>

#include "backends/cuda/prim/launch.h"

namespace trireme::cuda::smxx {

// Plain loads and stores, never the read-only path: a kernel that started early may run while the one ahead
// of it still writes. Streamed data does not stay in L1, where the weights are.
__device__ __forceinline__ uint4 load16(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ void store16(void* p, const uint4& v) { *static_cast<uint4*>(p) = v; }

// The first `valid` of 8 values at p, zeros for the rest. Wide: 16-byte aligned, and valid is >= 8 or <= 0.
template <bool Wide>
__device__ __forceinline__ uint4 load8(const uint16_t* p, int valid) {
  uint4 v = make_uint4(0, 0, 0, 0);
  if constexpr (Wide) {
    if (valid > 0) v = load16(p);
  } else {
    uint32_t e[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) e[i] = i < valid ? static_cast<const volatile uint16_t*>(p)[i] : 0;
    v = make_uint4(e[0] | e[1] << 16, e[2] | e[3] << 16, e[4] | e[5] << 16, e[6] | e[7] << 16);
  }
  return v;
}
template <bool Wide>
__device__ __forceinline__ void store8(uint16_t* p, const uint4& v, int valid) {
  if constexpr (Wide) {
    if (valid > 0) store16(p, v);
  } else {
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < valid) p[i] = static_cast<uint16_t>(i % 2 ? w[i / 2] >> 16 : w[i / 2]);
  }
}

__device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ float bf16_value(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ __forceinline__ uint32_t bf16_pair(float lo, float hi) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
  return d;
}

__device__ __forceinline__ void unpack8(const uint4& v, float (&f)[8]) {
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    f[2 * i] = low(w[i]);
    f[2 * i + 1] = high(w[i]);
  }
}
__device__ __forceinline__ uint4 pack8(const float (&f)[8]) {
  return make_uint4(bf16_pair(f[0], f[1]), bf16_pair(f[2], f[3]), bf16_pair(f[4], f[5]),
                    bf16_pair(f[6], f[7]));
}

__device__ __forceinline__ uint32_t e4m3_pair(float lo, float hi) {
  uint16_t d;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(d) : "f"(hi), "f"(lo));
  return d;
}

__device__ __forceinline__ uint32_t max_pair(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
// x / by, correctly rounded but for quotients nearer to a midpoint than any of BF16 values are: a product
// with the reciprocal, then what it left over.
__device__ __forceinline__ float quotient(float x, float by, float reciprocal) {
  const float near = x * reciprocal;
  return fmaf(fmaf(near, by, -x), -reciprocal, near);  // in these signs -0 stays -0
}

// What a norm multiplies with: 1 / sqrt(mean square + eps).
__device__ __forceinline__ float norm_scale(float sum_of_squares, int n, float eps) {
  return rsqrtf(__fdividef(sum_of_squares, static_cast<float>(n)) + eps);
}

// The least power of two that brings magnitudes up to `most` into e4m3's range; 1 where they are as good as
// nothing. BF16 values that are divided by it lose no bit.
__device__ __forceinline__ float e4m3_power(float most) {
  if (!(most > 0x1p-100f)) return 1;
  return __uint_as_float((__float_as_uint(most * (1.0f / 448)) + 0x7FFFFF) & 0xFF800000u);
}

// A block of 128 BF16 values lies in 16 neighbouring lanes, 8 each; all lanes of the warp take part. Gives
// this lane's codes and the block's scale, max |x| / 448. Blocks of (nearly) nothing get a scale far from the
// limits of float32, so that neither it nor its reciprocal is lost.
__device__ __forceinline__ uint2 quantise_block(const uint4& v, float& scale) {
  constexpr uint32_t kMagnitude = 0x7fff7fffu;
  uint32_t most =
      max_pair(max_pair(v.x & kMagnitude, v.y & kMagnitude), max_pair(v.z & kMagnitude, v.w & kMagnitude));
#pragma unroll
  for (int d = 8; d > 0; d /= 2) most = max_pair(most, __shfl_xor_sync(0xffffffffu, most, d));
  scale = quotient(fmaxf(fmaxf(low(most), high(most)), 1e-30f), 448.0f, 1.0f / 448.0f);
  float inverse;
  asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(scale));
  inverse = fmaf(inverse, fmaf(-scale, inverse, 1.0f), inverse);
  float f[8];
  unpack8(v, f);
#pragma unroll
  for (int i = 0; i < 8; ++i) f[i] = quotient(f[i], scale, inverse);
  return make_uint2(e4m3_pair(f[0], f[1]) | e4m3_pair(f[2], f[3]) << 16,
                    e4m3_pair(f[4], f[5]) | e4m3_pair(f[6], f[7]) << 16);
}

}  // namespace trireme::cuda::smxx
