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
  float step;         // buckets a logit
  __device__ Weigher(float best_logit, float inverse_temperature)
      : best(best_logit), scale(inverse_temperature * 1.44269504f), step(scale * kBucketsPerBit) {}
  __device__ float weight(float x) const {
    float w;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(w) : "f"((x - best) * scale));
    return w;
  }
  __device__ static uint64_t mass(float weight) { return __float2ull_rn(weight * 0x1p44f); }
  // Never decreases with falling x; its whole part is the bucket. What is beyond the last has no mass.
  __device__ float place(float x) const { return (best - x) * step; }
  __device__ int bucket(float x) const { return min(__float2int_rz(place(x)), kBuckets - 1); }

  static constexpr int kBucketsPerBit = 45;
};
// Half of 2^-44 rounds to nothing, so that 45 bits and a half are enough.
static_assert((kBuckets - 1) * 2 >= 91 * Weigher::kBucketsPerBit - 2);

struct Sum {
  uint64_t mass, count;
  __device__ Sum& operator+=(const Sum& other) {
    mass += other.mass;
    count += other.count;
    return *this;
  }
};

__device__ inline uint64_t warp_sum(uint64_t v) {
  for (int d = kLanes / 2; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// Sum over the lanes up to this one.
__device__ inline uint64_t warp_prefix(uint64_t v) {
  const int lane = threadIdx.x % kLanes;
  for (int d = 1; d < kLanes; d *= 2) {
    const uint64_t other = __shfl_up_sync(~0u, v, d);
    if (lane >= d) v += other;
  }
  return v;
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
    sum = {warp_sum(sum.mass), warp_sum(sum.count)};
    if (lane == 0) group[warp] = sum;
  }
};

}  // namespace trireme::cuda::sampling
