// Rotary embedding of one unit of a head's row: what a thread loads, turns and stores.
//
// A unit is 8 neighbouring values where pairs are interleaved and 8 of each half where they are not, if
// 16-byte accesses fit; otherwise it is one pair.
#pragma once
#include "backends/cuda/smxx/rope_append.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {

enum class Unit { kNeighbours, kHalves, kPair };
template <Unit U>
inline constexpr bool kWide = U != Unit::kPair;

template <Unit U>
__host__ __device__ inline int units_of(const RopeTable& t) {
  return U == Unit::kPair ? t.dim / 2 : U == Unit::kNeighbours ? t.dim / 8 : t.dim / 16;
}

struct Turn {
  float cos[8], sin[8];
};

template <Unit U>
__device__ __forceinline__ Turn turn_of(const RopeTable& t, int64_t token, int unit) {
  int64_t position = static_cast<const volatile int32_t*>(t.positions)[token];
  position = position < 0 || position >= t.max_position ? t.max_position - 1 : position;
  const float* const cos = t.cos_sin + position * t.stride;
  const float* const sin = cos + t.dim / 2;
  Turn out;
  if constexpr (kWide<U>) {
    constexpr int each = U == Unit::kNeighbours ? 4 : 8;
#pragma unroll
    for (int i = 0; i < each; i += 4) {
      const float4 c = __ldg(reinterpret_cast<const float4*>(cos + unit * each + i));
      const float4 s = __ldg(reinterpret_cast<const float4*>(sin + unit * each + i));
      out.cos[i] = c.x, out.cos[i + 1] = c.y, out.cos[i + 2] = c.z, out.cos[i + 3] = c.w;
      out.sin[i] = s.x, out.sin[i + 1] = s.y, out.sin[i + 2] = s.z, out.sin[i + 3] = s.w;
    }
  } else {
    out.cos[0] = cos[unit];
    out.sin[0] = sin[unit];
  }
  return out;
}

struct Pairs {
  uint4 a, b;  // b: the second half's values, where pairs are not interleaved
};

template <Unit U>
__device__ __forceinline__ Pairs load_pairs(const uint16_t* x, const RopeTable& t, int unit) {
  Pairs p{};
  if constexpr (kWide<U>) {
    p.a = load16(x + unit * 8);
    if constexpr (U == Unit::kHalves) p.b = load16(x + t.dim / 2 + unit * 8);
  } else {
    const volatile uint16_t* const v = x;
    p.a.x = v[t.interleaved ? 2 * unit : unit];
    p.b.x = v[t.interleaved ? 2 * unit + 1 : unit + t.dim / 2];
  }
  return p;
}

template <Unit U>
__device__ __forceinline__ void store_pairs(uint16_t* x, const RopeTable& t, int unit, const Pairs& p) {
  if constexpr (kWide<U>) {
    store16(x + unit * 8, p.a);
    if constexpr (U == Unit::kHalves) store16(x + t.dim / 2 + unit * 8, p.b);
  } else {
    x[t.interleaved ? 2 * unit : unit] = static_cast<uint16_t>(p.a.x);
    x[t.interleaved ? 2 * unit + 1 : unit + t.dim / 2] = static_cast<uint16_t>(p.b.x);
  }
}

// Spelled out, so that every kernel rounds alike.
__device__ __forceinline__ void turn(float& u, float& v, float cos, float sin) {
  const float first = fmaf(u, cos, -__fmul_rn(v, sin)), second = fmaf(u, sin, __fmul_rn(v, cos));
  u = first;
  v = second;
}

template <Unit U>
__device__ __forceinline__ Pairs rotated(const Pairs& p, const RopeTable& t, const Turn& by) {
  Pairs out{};
  if constexpr (kWide<U>) {
    float f[8], g[8];
    unpack8(p.a, f);
    if constexpr (U == Unit::kNeighbours) {
#pragma unroll
      for (int i = 0; i < 4; ++i) turn(f[2 * i], f[2 * i + 1], by.cos[i], by.sin[i]);
    } else {
      unpack8(p.b, g);
#pragma unroll
      for (int i = 0; i < 8; ++i) turn(f[i], g[i], by.cos[i], by.sin[i]);
      out.b = pack8(g);
    }
    out.a = pack8(f);
  } else {
    float u = low(p.a.x), v = low(p.b.x);
    turn(u, v, by.cos[0], by.sin[0]);
    out.a.x = bf16_pair(u, 0);
    out.b.x = bf16_pair(v, 0);
  }
  return out;
}

// Rotates the heads of one token in place, by threads [0, threads) of which `thread` is one.
template <Unit U>
__device__ __forceinline__ void rotate_heads(uint16_t* x, int64_t head_stride, int heads, const RopeTable& t,
                                             int64_t token, int thread, int threads) {
  constexpr int kUnroll = U == Unit::kHalves ? 2 : 4;
  const int units = units_of<U>(t), together = threads / units;  // heads at a time
  const int unit = thread % units, first = thread / units;
  if (first >= together) return;
  uint16_t* const row = x + token * heads * head_stride;
  Turn by;
  for (int begin = first; begin < heads; begin += kUnroll * together) {
    Pairs p[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int head = begin + i * together;
      if (head < heads) p[i] = load_pairs<U>(row + head * head_stride, t, unit);
    }
    if (begin == first) by = turn_of<U>(t, token, unit);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int head = begin + i * together;
      if (head < heads) store_pairs<U>(row + head * head_stride, t, unit, rotated<U>(p[i], t, by));
    }
  }
}

}  // namespace trireme::cuda::smxx
