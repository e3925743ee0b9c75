#include "backends/cuda/sm90/head_gemm/kernel.cuh"

namespace trireme::cuda::head {

cudaError_t start_bf16(const Launch& l, bool up, int rows) {
  if (up) return rows == 128 ? start<Config<false, true, 128>>(l) : start<Config<false, true, 64>>(l);
  return rows == 128 ? start<Config<false, false, 128>>(l) : start<Config<false, false, 64>>(l);
}

}  // namespace trireme::cuda::head
