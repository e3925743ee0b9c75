#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {

cudaError_t launch_bf16_128x256(const GemmLaunch& l) { return launch_gemm<GemmConfig<false, 2, 128, 1>>(l); }

}  // namespace trireme::cuda
