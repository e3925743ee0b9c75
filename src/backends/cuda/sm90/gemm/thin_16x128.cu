#include "backends/cuda/sm90/gemm/thin_launch.cuh"

namespace trireme::cuda {

cudaError_t launch_thin_16x128(const ThinLaunch& l) { return launch_thin<ThinConfig<16, 128>>(l); }

}  // namespace trireme::cuda
