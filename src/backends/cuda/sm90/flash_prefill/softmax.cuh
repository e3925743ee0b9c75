// The running softmax of two query rows a thread, over scores as a warpgroup product leaves them.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace trireme::cuda::flash {

__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ std::uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&v);
}

// Weights in BF16, as the next product takes them.
template <int N>
__device__ __forceinline__ void pack(const float (&s)[N], std::uint32_t (&weights)[N / 2]) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) weights[i] = pack_pair(s[2 * i], s[2 * i + 1]);
}

template <int N>
__device__ __forceinline__ void scale_rows(float (&x)[N], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] *= factor[i / 2 % 2];
}

struct Rows {
  int last[2];      // key that each row still sees
  float top[2];     // largest score so far, times the scale
  float weight[2];  // sum of this thread's weights

  __device__ void init(int last0, int last1) {
    last[0] = last0;
    last[1] = last1;
    top[0] = top[1] = -INFINITY;
    weight[0] = weight[1] = 0;
  }

  // `key`: of s[0]. A score that a row does not see becomes -infinity, whatever it was.
  template <int N>
  __device__ __forceinline__ void mask(float (&s)[N], int key, int window) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int k = key + i / 4 * 8 + i % 2, l = last[i / 2 % 2];
      if (k > l || (window > 0 && k <= l - window)) s[i] = -INFINITY;
    }
  }

  // Scores, of which each row has its scale, become weights; what was summed before is to be multiplied by
  // `rescale`.
  template <int N>
  __device__ __forceinline__ void update(float (&s)[N], const float (&scale_log2)[2], float (&rescale)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float m = fmaxf(s[2 * h], s[2 * h + 1]);
#pragma unroll
      for (int i = 4; i < N; i += 4) m = fmaxf(m, fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
      m = fmaxf(fmaxf(m, __shfl_xor_sync(~0u, m, 2)) * scale_log2[h], top[h]);
      const float base = m == -INFINITY ? 0 : m;  // nothing seen yet: all weights are zero
      rescale[h] = fast_exp2(top[h] - base);      // exactly 1 where the top stays
      top[h] = m;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < N; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[i + 2 * h + e];
          x = fast_exp2(fmaf(x, scale_log2[h], -base));
          sum += x;
        }
      }
      weight[h] = fmaf(weight[h], rescale[h], sum);
    }
  }

  __device__ void finish(float (&inverse)[2]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float w = weight[h];
      w += __shfl_xor_sync(~0u, w, 1);
      w += __shfl_xor_sync(~0u, w, 2);
      inverse[h] = 1 / w;
    }
  }
};

}  // namespace trireme::cuda::flash
