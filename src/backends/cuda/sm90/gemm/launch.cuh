#pragma once
// One tile's kernel and how it is started; each instantiation is a file of its own.

#include "backends/cuda/sm90/gemm/kernel.cuh"

namespace trireme::cuda {

struct GemmLaunch {
  CUtensorMap x, w, scale;
  GemmParams params;
  int ctas;  // a multiple of params.cluster * params.split
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
  attributes[1].val.clusterDim.x = static_cast<unsigned>(l.params.cluster * l.params.split);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(l.ctas));
  config.blockDim = dim3(C::kThreads);
  config.dynamicSmemBytes = C::kSmemBytes;
  config.stream = l.stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, gemm_kernel<C>, l.x, l.w, l.scale, l.params);
}

cudaError_t launch_fp8_256x128(const GemmLaunch&);
cudaError_t launch_fp8_128x192(const GemmLaunch&);
cudaError_t launch_fp8_128x128(const GemmLaunch&);
cudaError_t launch_fp8_64x256(const GemmLaunch&);
cudaError_t launch_fp8_64x128(const GemmLaunch&);
cudaError_t launch_fp8_64x64(const GemmLaunch&);
cudaError_t launch_fp8_128x128_split(const GemmLaunch&);
cudaError_t launch_fp8_64x128_split(const GemmLaunch&);
cudaError_t launch_bf16_128x256(const GemmLaunch&);
cudaError_t launch_bf16_128x128(const GemmLaunch&);
cudaError_t launch_bf16_64x128(const GemmLaunch&);

}  // namespace trireme::cuda
