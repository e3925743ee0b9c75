// Which kernel multiplies with one matrix a head, and from which weights. Pure: no CUDA here, tested on a
// CPU.
#pragma once
#include "backends/cuda/heuristics/head_tile.h"

namespace trireme::cuda {

// Whether heads whose matrices are stored in FP8 keep their codes, and multiply activations rounded to e4m3.
// Half the bytes, and one more rounding of queries and of what attention leaves than the model was trained
// with.
inline constexpr bool kFp8Heads = false;
constexpr bool heads_keep_fp8(std::int64_t n, std::int64_t k) {
  return kFp8Heads && n <= 512 && k <= 512 && head_gemm_takes(static_cast<int>(n), static_cast<int>(k));
}

// Whether our kernel is the faster one in a step, where it reads its weights while the kernel ahead drains.
// Measured on an H200, 128 heads: launched one behind the other 7.0 against 9.5 us for one token, 10.5
// and 9.3 against 11.2 and 9.7 us for 128, 202 and 162 against 228 and 189 us for 4096 (into the latent, out
// of it). A launch alone is up to 10% slower than cuBLASLt's for less than 192 tokens.
bool head_gemm_is_faster(const HeadProblem& p);

}  // namespace trireme::cuda
