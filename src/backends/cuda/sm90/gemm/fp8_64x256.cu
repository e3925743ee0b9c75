#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {

cudaError_t launch_fp8_64x256(const GemmLaunch& l) {
  return launch_gemm<GemmConfig<true, 1, 128, 1, 128, 0>>(l);
}

}  // namespace trireme::cuda
