// Which library multiplies a dense FP8 product. Pure: no CUDA here, tested on a CPU.
#pragma once
#include <cstdint>

namespace trireme::cuda {

// Whether cuBLASLt is the faster one for x [rows, k] W[n, k]^T, by measurement on an H200 (`bench kernels`,
// column "of it"): ours is ahead for few rows and for narrow outputs, cuBLASLt where the product is limited
// by arithmetic.
bool cublaslt_is_faster(std::int64_t rows, std::int64_t n, std::int64_t k);

}  // namespace trireme::cuda
