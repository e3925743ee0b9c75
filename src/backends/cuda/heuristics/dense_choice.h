// Which library multiplies a dense FP8 product. Pure: no CUDA here, tested on a CPU.
#pragma once
#include <cstdint>

namespace trireme::cuda {

// Whether cuBLASLt is the faster one for x [rows, k] W[n, k]^T, by measurement on an H200 (`bench kernels
// --tune`): ours is ahead for few rows and for many, cuBLASLt where the output is about one round of 128 x
// 128.
bool cublaslt_is_faster(std::int64_t rows, std::int64_t n, std::int64_t k, int sms = 132);

}  // namespace trireme::cuda
