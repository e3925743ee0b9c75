#pragma once
// One tile's kernel and how it is started; each instantiation is a file of its own.

#include "backends/cuda/sm90/gemm/kernel.cuh"

namespace trireme::cuda {

struct GemmLaunch {
  CUtensorMap x, w, scale, out;
  GemmParams params;
  int ctas;  // whole pairs where CTAs pair up
  cudaStream_t stream;
};

template <class C>
cudaError_t launch_gemm(const GemmLaunch& l) {
  const cudaError_t e =
      cudaFuncSetAttribute(gemm_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSmemBytes);
  if (e != cudaSuccess) return e;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = C::kPair;
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(l.ctas));
  config.blockDim = dim3(C::kThreads);
  config.dynamicSmemBytes = C::kSmemBytes;
  config.stream = l.stream;
  config.attrs = attributes;
  config.numAttrs = C::kPair > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, gemm_kernel<C>, l.x, l.w, l.scale, l.out, l.params);
}

cudaError_t launch_fp8_128x256(const GemmLaunch&);
cudaError_t launch_fp8_128x256_pair(const GemmLaunch&);
cudaError_t launch_fp8_128x192(const GemmLaunch&);
cudaError_t launch_fp8_128x192_pair(const GemmLaunch&);
cudaError_t launch_fp8_128x128(const GemmLaunch&);
cudaError_t launch_fp8_128x256_split(const GemmLaunch&);
cudaError_t launch_fp8_128x128_split(const GemmLaunch&);
cudaError_t launch_bf16_128x256(const GemmLaunch&);
cudaError_t launch_bf16_128x256_pair(const GemmLaunch&);
cudaError_t launch_bf16_128x128(const GemmLaunch&);

}  // namespace trireme::cuda
