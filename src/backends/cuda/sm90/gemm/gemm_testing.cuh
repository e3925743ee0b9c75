#pragma once
// Random operands, their owners and a slow reference, for the test and the benchmark of the GEMM kernels.

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace trireme::cuda::gemm_testing {

inline void must(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
  std::abort();
}

template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t count) : count_(count) {
    must(cudaMalloc(&data_, bytes() + 16), "cudaMalloc");
  }
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size()) {
    must(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyHostToDevice), "copy to the device");
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }
  T* get() const { return data_; }
  std::size_t bytes() const { return count_ * sizeof(T); }
  std::vector<T> host() const {
    std::vector<T> h(count_);
    must(cudaMemcpy(h.data(), data_, bytes(), cudaMemcpyDeviceToHost), "copy to the host");
    return h;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

__device__ inline float hash_uniform(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = seed * 0x9E3779B97F4A7C15ull + i * 0xD1342543DE82EF95ull;
  z = (z ^ (z >> 32)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 29)) * 0x94D049BB133111EBull;
  return static_cast<float>((z ^ (z >> 32)) & 0xFFFFFF) / 16777216.0f;
}

__device__ inline float hash_normal(std::uint64_t seed, std::uint64_t i) {
  float s = -6.0f;
  for (std::uint64_t j = 0; j < 12; ++j) s += hash_uniform(seed + j, i);
  return s;
}

template <class T>
static __global__ void fill_normal(T* p, std::size_t count, std::uint64_t seed, float sigma) {
  for (std::size_t i = blockIdx.x * std::size_t{256} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * 256) {
    p[i] = static_cast<T>(hash_normal(seed, i) * sigma);
  }
}

static __global__ void fill_scales(float* p, std::size_t count, std::uint64_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{256} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * 256) {
    p[i] = (0.5f + hash_uniform(seed, i)) / 128.0f;
  }
}

// Rows that belong to nobody become NaN, codes and scales alike. row_expert: [rows], negative for those.
template <class T>
static __global__ void poison_rows(T* x, std::int64_t x_stride, int k, const int* row_expert, T nan) {
  if (row_expert[blockIdx.x] >= 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < k; i += 256) x[blockIdx.x * x_stride + i] = nan;
}

static __global__ void poison_scales(float* s, std::int64_t stride, int k_blocks, const int* row_expert,
                                     int rows) {
  for (int r = static_cast<int>(threadIdx.x); r < stride; r += 256) {
    if (r < rows && row_expert[r] >= 0) continue;
    for (int b = 0; b < k_blocks; ++b) s[b * stride + r] = __int_as_float(0x7FC00000);
  }
}

// ref[r, c] in float64; rows of nobody are left alone. Scales null: none.
template <class T>
static __global__ void reference(const T* x, std::int64_t x_stride, const float* x_scale,
                                 std::int64_t x_scale_stride, const T* w, const float* w_scale,
                                 int w_scale_stride, const int* row_expert, int n, int k, float* ref) {
  const int c = static_cast<int>(blockIdx.x * 256 + threadIdx.x), r = static_cast<int>(blockIdx.y);
  const int e = row_expert[r];
  if (c >= n || e < 0) return;
  double sum = 0;
  for (int b = 0; b < k; b += 128) {
    double part = 0;
    for (int i = b; i < b + 128 && i < k; ++i) {
      part += static_cast<double>(static_cast<float>(x[r * x_stride + i])) *
              static_cast<double>(static_cast<float>(w[(static_cast<std::int64_t>(e) * n + c) * k + i]));
    }
    if (x_scale != nullptr) {
      part *= static_cast<double>(x_scale[b / 128 * x_scale_stride + r]) *
              static_cast<double>(w_scale[(e * ((n + 127) / 128) + c / 128) * w_scale_stride + b / 128]);
    }
    sum += part;
  }
  ref[static_cast<std::int64_t>(r) * n + c] = static_cast<float>(sum);
}

}  // namespace trireme::cuda::gemm_testing
