#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {

cudaError_t launch_fp8_128x256_split(const GemmLaunch& l) {
  return launch_gemm<GemmConfig<true, 2, 128, 1, TileShare::meet>>(l);
}

}  // namespace trireme::cuda
