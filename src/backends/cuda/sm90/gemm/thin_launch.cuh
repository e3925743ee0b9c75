#pragma once
// One tile's kernel and how it is started; each instantiation is a file of its own.

#include "backends/cuda/prim/launch.h"
#include "backends/cuda/sm90/gemm/thin_kernel.cuh"

namespace trireme::cuda {

struct ThinLaunch {
  CUtensorMap x, w, scale;
  ThinParams params;
  int ctas;
  cudaStream_t stream;
};

template <class C>
cudaError_t launch_thin(const ThinLaunch& l) {
  const cudaError_t e =
      cudaFuncSetAttribute(thin_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSmemBytes);
  if (e != cudaSuccess) return e;
  return launch(thin_kernel<C>, dim3(static_cast<unsigned>(l.ctas)), dim3(C::kThreads), C::kSmemBytes,
                l.stream, l.x, l.w, l.scale, l.params);
}

cudaError_t launch_thin_32x64(const ThinLaunch&);
cudaError_t launch_thin_32x128(const ThinLaunch&);
cudaError_t launch_thin_32x256(const ThinLaunch&);
cudaError_t launch_thin_64x64(const ThinLaunch&);
cudaError_t launch_thin_64x128(const ThinLaunch&);
cudaError_t launch_thin_64x192(const ThinLaunch&);

}  // namespace trireme::cuda
