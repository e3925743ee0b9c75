#include "backends/cuda/sm90/gemm/thin_launch.cuh"

namespace trireme::cuda {

cudaError_t launch_thin_64x192(const ThinLaunch& l) { return launch_thin<ThinConfig<64, 192>>(l); }

}  // namespace trireme::cuda
