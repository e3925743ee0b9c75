#pragma once
// One tile's kernel and how it is started; each instantiation is a file of its own.

#include "backends/cuda/sm90/gemm/kernel.cuh"
#include "backends/cuda/sm90/gemm/launch_config.h"

namespace trireme::cuda {

struct GemmLaunch {
  CUtensorMap x, w, scale, out;
  GemmParams params;
  int ctas, cluster;  // CTAs: whole clusters
  cudaStream_t stream;
};

template <class C>
cudaError_t launch_gemm(const GemmLaunch& l) {
  const cudaError_t e = allow_smem(gemm_kernel<C>, C::kSmemBytes);
  if (e != cudaSuccess) return e;
  LaunchConfig launch(C::kThreads, C::kSmemBytes, l.cluster);
  launch.config.gridDim = dim3(static_cast<unsigned>(l.ctas));
  launch.config.stream = l.stream;
  return cudaLaunchKernelEx(&launch.config, gemm_kernel<C>, l.x, l.w, l.scale, l.out, l.params);
}

cudaError_t launch_fp8_128x256(const GemmLaunch&);
cudaError_t launch_fp8_128x256_pair(const GemmLaunch&);
cudaError_t launch_fp8_128x192(const GemmLaunch&);
cudaError_t launch_fp8_128x192_pair(const GemmLaunch&);
cudaError_t launch_fp8_128x128(const GemmLaunch&);
cudaError_t launch_fp8_128x256_split(const GemmLaunch&);
cudaError_t launch_fp8_128x128_split(const GemmLaunch&);
cudaError_t launch_fp8_128x128_gather(const GemmLaunch&);
// How many clusters of so many CTAs, up to kGatherMost, run at once on this device.
int clusters_fp8_128x128_gather(int cluster);
cudaError_t launch_bf16_128x256(const GemmLaunch&);
cudaError_t launch_bf16_128x256_pair(const GemmLaunch&);
cudaError_t launch_bf16_128x128(const GemmLaunch&);

}  // namespace trireme::cuda
