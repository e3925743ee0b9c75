#include "backends/cuda/prim/launch.h"
#include "backends/cuda/smxx/moe_route.h"

namespace trireme::cuda::smxx {
namespace {

constexpr int kWarps = 4;
constexpr uint32_t kAll = 0xffffffffu;
constexpr float kNever = -INFINITY;

// An unsigned number that orders as the float does; 0 is below all of them. -0 and +0 are one.
__device__ __forceinline__ uint32_t ordered(float f) {
  const uint32_t u = __float_as_uint(f + 0.0f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float from_ordered(uint32_t u) {
  return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}
__device__ __forceinline__ float number(float f) { return f != f ? kNever : f; }

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(kAll, v, d));
  return v;
}
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(kAll, v, d);
  return v;
}

// The sum of the two best of choice[0, size), for every lane (of the best, if there is one alone).
__device__ __forceinline__ float two_best(const float* choice, int size, int lane) {
  float first = kNever, second = kNever;
  for (int i = lane; i < size; i += 32) {
    const float v = choice[i];
    second = fmaxf(second, fminf(first, v));
    first = fmaxf(first, v);
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const float f = __shfl_xor_sync(kAll, first, d), s = __shfl_xor_sync(kAll, second, d);
    second = fmaxf(fmaxf(second, s), fminf(first, f));
    first = fmaxf(first, f);
  }
  return size == 1 ? first : first + second;
}

// The scores of groups of any size, lane g that of group g. `values` is room for the warp's choices.
template <int PerLane>
__device__ __forceinline__ float any_groups(const float (&choice)[PerLane], float* values, const GateArgs& a,
                                            int lane) {
#pragma unroll
  for (int i = 0; i < PerLane; ++i) values[i * 32 + lane] = choice[i];
  __syncwarp();
  const int size = a.experts / a.groups;
  float mine = kNever;
  for (int g = 0; g < a.groups; ++g) {
    const float both = two_best(values + g * size, size, lane);
    if (lane == g) mine = both;
  }
  return mine;
}

// The same for groups of 32, which lie in one register of all lanes.
template <int PerLane>
__device__ __forceinline__ float warp_groups(const uint32_t (&key)[PerLane], int lane) {
  float mine = kNever;
#pragma unroll
  for (int g = 0; g < PerLane; ++g) {
    const uint32_t first = __reduce_max_sync(kAll, key[g]);
    const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, key[g] == first))) - 1;
    const uint32_t second = __reduce_max_sync(kAll, lane == owner ? 0 : key[g]);
    if (lane == g) mine = from_ordered(first) + from_ordered(second);
  }
  return mine;
}

// A warp a token; lane l holds experts l, l + 32, ...
template <int PerLane>
__global__ __launch_bounds__(kWarps * 32) void gate_kernel(GateArgs a) {
  __shared__ float shared[kWarps][PerLane * 32];
  pdl_launch();
  pdl_wait();
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (token >= a.tokens) return;
  float* const values = shared[warp];

  const volatile float* const logits = a.logits + token * a.logits_stride;
  float score[PerLane];
#pragma unroll
  for (int i = 0; i < PerLane; ++i) {
    const int e = i * 32 + lane;
    score[i] = e < a.experts ? logits[e] : kNever;
  }
  if (a.sigmoid) {
#pragma unroll
    for (int i = 0; i < PerLane; ++i) score[i] = 1.0f / (1.0f + expf(-score[i]));
  } else {
    float most = kNever, sum = 0;
#pragma unroll
    for (int i = 0; i < PerLane; ++i) most = fmaxf(most, score[i]);
    most = warp_max(most);
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      score[i] = expf(score[i] - most);
      sum += score[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < PerLane; ++i) score[i] /= sum;
  }

  float choice[PerLane];
#pragma unroll
  for (int i = 0; i < PerLane; ++i) {
    const int e = i * 32 + lane;
    choice[i] = e < a.experts ? number(a.bias == nullptr ? score[i] : score[i] + a.bias[e]) : kNever;
  }
  uint32_t key[PerLane];
#pragma unroll
  for (int i = 0; i < PerLane; ++i) {
    const int e = i * 32 + lane;
    key[i] = e < a.experts ? ordered(choice[i]) : 0;
  }
  if (a.top_groups < a.groups) {
    const int size = a.experts / a.groups;
    const float group =
        size == 32 ? warp_groups<PerLane>(key, lane) : any_groups<PerLane>(choice, values, a, lane);
    int better = 0;
    for (int g = 0; g < a.groups; ++g) {
      const float other = __shfl_sync(kAll, group, g);
      better += other > group || (other == group && g < lane);
    }
    const uint32_t in = __ballot_sync(kAll, lane < a.groups && better < a.top_groups);
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      const int e = i * 32 + lane, g = size == 32 ? i : e / size;
      if (e < a.experts && (in >> g & 1) == 0) key[i] = ordered(kNever);
    }
  }

  __syncwarp();
#pragma unroll
  for (int i = 0; i < PerLane; ++i) values[i * 32 + lane] = score[i];
  __syncwarp();
  int picked = 0;  // lane j: choice j
  for (int j = 0; j < a.top_k; ++j) {
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < PerLane; ++i) most = max(most, key[i]);
    most = __reduce_max_sync(kAll, most);
    uint32_t at = kAll;
#pragma unroll
    for (int i = PerLane - 1; i >= 0; --i)
      if (key[i] == most) at = static_cast<uint32_t>(i * 32 + lane);
    at = __reduce_min_sync(kAll, at);
#pragma unroll
    for (int i = 0; i < PerLane; ++i)
      if (at == static_cast<uint32_t>(i * 32 + lane)) key[i] = 0;
    if (lane == j) picked = static_cast<int>(at);
  }

  const float own = lane < a.top_k ? values[picked] : 0.0f;
  float sum = 0;
  for (int j = 0; j < a.top_k; ++j) sum += __shfl_sync(kAll, own, j);
  if (lane >= a.top_k) return;
  const float share = a.normalise ? own / (sum + 1e-20f) : own;
  a.expert[token * a.top_k + lane] = a.place == nullptr ? picked : a.place[picked];
  a.weight[token * a.top_k + lane] = share * a.routed_scale;
}

}  // namespace

cudaError_t gate(const GateArgs& a, cudaStream_t stream) {
  if (a.experts > kMaxGateExperts || a.groups > kMaxGateGroups || a.top_k > kMaxTopK)
    return cudaErrorInvalidValue;
  const auto kernel = a.experts <= 64 ? gate_kernel<2> : a.experts <= 256 ? gate_kernel<8> : gate_kernel<16>;
  return launch(kernel, static_cast<unsigned>((a.tokens + kWarps - 1) / kWarps), kWarps * 32, 0, stream, a);
}

}  // namespace trireme::cuda::smxx
