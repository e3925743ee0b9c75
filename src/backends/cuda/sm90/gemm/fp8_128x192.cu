#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {

cudaError_t launch_fp8_128x192(const GemmLaunch& l) { return launch_gemm<GemmConfig<true, 1, 192, 1>>(l); }

}  // namespace trireme::cuda
