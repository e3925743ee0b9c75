// Tokens in their order as one number: the better logit is higher, then the lower id. NaN is above all.
#pragma once
#include <cstdint>

#include "backends/cuda/smxx/sample.h"

namespace trireme::cuda::sampling {

__device__ inline uint32_t ordered(float x) {
  if (x != x) return ~0u;
  const uint32_t bits = __float_as_uint(x + 0.0f);  // -0 and 0 are the same
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline uint64_t rank_of(float x, int id) {
  return uint64_t{ordered(x)} << 32 | static_cast<uint32_t>(~id);
}
__device__ inline int id_of(uint64_t rank) { return ~static_cast<int>(static_cast<uint32_t>(rank)); }
__device__ inline float unordered(uint32_t bits) {
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}
__device__ inline float value_of(uint64_t rank) { return unordered(static_cast<uint32_t>(rank >> 32)); }

// What the best logit of a row, as ordered() has it, says about the row.
__device__ inline int32_t status_of_best(uint32_t bits) {
  if (bits > ordered(INFINITY)) return kLogitsNaN;
  if (bits == ordered(INFINITY)) return kLogitsInfinite;
  return bits <= ordered(-INFINITY) ? kLogitsAllMinusInfinity : kSampled;
}

__device__ inline uint64_t warp_max(uint64_t v) {
  for (int d = 16; d > 0; d /= 2) v = max(v, __shfl_xor_sync(~0u, v, d));
  return v;
}

}  // namespace trireme::cuda::sampling
