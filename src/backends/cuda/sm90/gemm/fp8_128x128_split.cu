#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {

cudaError_t launch_fp8_128x128_split(const GemmLaunch& l) {
  return launch_gemm<GemmConfig<true, 1, 128, 1, TileShare::meet>>(l);
}

}  // namespace trireme::cuda
