#include <atomic>

#include "backends/cuda/heuristics/gemm_tile.h"
#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {
namespace {

using Config = GemmConfig<true, 1, 128, 1, TileShare::gather>;

}  // namespace

cudaError_t launch_fp8_128x128_gather(const GemmLaunch& l) { return launch_gemm<Config>(l); }

// Asked once for each size; what differs between devices of one process is not worth asking again.
int clusters_fp8_128x128_gather(int cluster) {
  static std::atomic<int> known[kGatherMost + 1] = {};
  std::atomic<int>& count = known[cluster];
  if (count.load(std::memory_order_relaxed) == 0) {
    LaunchConfig launch(Config::kThreads, Config::kSmemBytes, cluster);
    launch.config.gridDim = dim3(static_cast<unsigned>(cluster));
    int found = 0;
    if (allow_smem(gemm_kernel<Config>, Config::kSmemBytes) == cudaSuccess &&
        cudaOccupancyMaxActiveClusters(&found, gemm_kernel<Config>, &launch.config) == cudaSuccess) {
      count.store(found, std::memory_order_relaxed);
    }
  }
  return count.load(std::memory_order_relaxed);
}

}  // namespace trireme::cuda
