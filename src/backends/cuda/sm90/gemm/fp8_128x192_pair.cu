#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {

cudaError_t launch_fp8_128x192_pair(const GemmLaunch& l) {
  return launch_gemm<GemmConfig<true, 1, 192, 2>>(l);
}

}  // namespace trireme::cuda
