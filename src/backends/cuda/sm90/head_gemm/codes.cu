#include "backends/cuda/sm90/head_gemm/kernel.cuh"

namespace trireme::cuda {
namespace head {
namespace {

constexpr int kThreads = 256;

// A block a head, a thread every kThreads-th column.
__global__ void __launch_bounds__(kThreads)
    bounds_kernel(const std::uint16_t* w, int k, int n, float* bound) {
  w += static_cast<std::int64_t>(blockIdx.x) * k * n;
  float most = 0;
  for (int col = static_cast<int>(threadIdx.x); col < n; col += kThreads) {
    float sum = 0;
    for (int i = 0; i < k; ++i) {
      const float x = smxx::low(w[static_cast<std::int64_t>(i) * n + col]);
      sum = fmaf(x, x, sum);
    }
    most = fmaxf(most, sum);
  }
  __shared__ float all[kThreads];
  all[threadIdx.x] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (const float x : all) most = fmaxf(most, x);
  bound[blockIdx.x] = sqrtf(most) * (1 + 0x1p-7f);  // products and sums are rounded
}

}  // namespace

cudaError_t start_codes(const Launch& l, int rows) {
  return rows == 128 ? start<Config<false, true, 128, true>>(l) : start<Config<false, true, 64, true>>(l);
}

}  // namespace head

cudaError_t head_bounds(const void* w, int heads, int k, int n, float* bound, cudaStream_t stream) {
  head::bounds_kernel<<<static_cast<unsigned>(heads), head::kThreads, 0, stream>>>(
      static_cast<const std::uint16_t*>(w), k, n, bound);
  return cudaGetLastError();
}

}  // namespace trireme::cuda
