#include "backends/cuda/sm90/head_gemm/kernel.cuh"

namespace trireme::cuda::head {

cudaError_t start_fp8(const Launch& l, bool up, int rows) {
  if (up) return rows == 128 ? start<Config<true, true, 128>>(l) : start<Config<true, true, 64>>(l);
  return rows == 128 ? start<Config<true, false, 128>>(l) : start<Config<true, false, 64>>(l);
}

}  // namespace trireme::cuda::head
