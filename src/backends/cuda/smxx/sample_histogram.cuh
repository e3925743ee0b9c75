// Weights as whole numbers, and their sums by bucket.
#pragma once
#include <cstdint>

namespace trireme::cuda::sampling {

inline constexpr int kThreads = 1024, kLanes = 32;
static_assert(kThreads == kLanes * kLanes);  // a warp holds one value of each warp
inline constexpr int kBuckets = 2048;

// Weights of a row relative to its best token's, as whole numbers of 2^-44: 2^18 of them fit 64 bits.
struct Weigher {
  float best, scale;  // a weight is 2^((x - best) * scale)
  __device__ Weigher(float best_logit, float inverse_temperature)
      : best(best_logit), scale(inverse_temperature * 1.44269504f) {}
  __device__ float bits(float x) const { return (best - x) * scale; }  // how far below the best
  __device__ float weight(float x) const { return exp2f(-bits(x)); }
  __device__ static uint64_t mass(float weight) { return __float2ull_rn(weight * 0x1p44f); }
  // Finer near the best token; never decreases with falling x. The last bucket has no mass.
  __device__ int bucket(float x) const {
    const float y = bits(x);
    if (y < 16.0f) return static_cast<int>(y * 96.0f);
    return 1536 + static_cast<int>(fminf((y - 16.0f) * 16.0f, 511.0f));
  }
};

struct Sum {
  uint64_t mass, count;
  __device__ Sum& operator+=(const Sum& other) {
    mass += other.mass;
    count += other.count;
    return *this;
  }
};

// Sum over the lanes up to this one.
__device__ inline uint64_t warp_prefix(uint64_t v) {
  const int lane = threadIdx.x % kLanes;
  for (int d = 1; d < kLanes; d *= 2) {
    const uint64_t other = __shfl_up_sync(~0u, v, d);
    if (lane >= d) v += other;
  }
  return v;
}
__device__ inline Sum warp_prefix(Sum v) { return {warp_prefix(v.mass), warp_prefix(v.count)}; }
__device__ inline Sum from_lane(Sum v, int lane) {
  return {__shfl_sync(~0u, v.mass, lane), __shfl_sync(~0u, v.count, lane)};
}

// Sums by bucket, and by 32 groups of as many buckets.
template <int N>
struct Histogram {
  uint32_t low[N], high[N], count[N];  // the masses in two halves
  Sum group[kLanes];

  __device__ void clear() {
    for (int b = threadIdx.x; b < N; b += kThreads) low[b] = high[b] = count[b] = 0;
  }
  __device__ void add_mass(int bucket, uint64_t mass) {
    const uint32_t part = static_cast<uint32_t>(mass);
    const uint32_t before = atomicAdd(&low[bucket], part);
    const uint32_t carried = static_cast<uint32_t>(mass >> 32) + (before + part < before ? 1 : 0);
    if (carried != 0) atomicAdd(&high[bucket], carried);
  }
  __device__ void add_count(int bucket, uint32_t n = 1) { atomicAdd(&count[bucket], n); }
  __device__ Sum at(int bucket) const {
    return {low[bucket] + (uint64_t{high[bucket]} << 32), count[bucket]};
  }
  // Each warp sums one group. All threads of a block, between two meetings.
  __device__ void sum_groups() {
    const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    Sum sum = {0, 0};
    for (int b = lane; b < N / kLanes; b += kLanes) sum += at(warp * (N / kLanes) + b);
    for (int d = kLanes / 2; d > 0; d /= 2)
      sum += {__shfl_xor_sync(~0u, sum.mass, d), __shfl_xor_sync(~0u, sum.count, d)};
    if (lane == 0) group[warp] = sum;
  }
};

}  // namespace trireme::cuda::sampling
