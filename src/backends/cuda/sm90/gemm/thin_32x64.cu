#include "backends/cuda/sm90/gemm/thin_launch.cuh"

namespace trireme::cuda {

cudaError_t launch_thin_32x64(const ThinLaunch& l) { return launch_thin<ThinConfig<32, 64>>(l); }

}  // namespace trireme::cuda
