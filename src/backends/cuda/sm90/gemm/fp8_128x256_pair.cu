#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {

cudaError_t launch_fp8_128x256_pair(const GemmLaunch& l) {
  return launch_gemm<GemmConfig<true, 2, 128, 2>>(l);
}

}  // namespace trireme::cuda
