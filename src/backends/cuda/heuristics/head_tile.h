// How a product with one matrix a head is divided among the CTAs of a chip. Pure: no CUDA here, tested on a
// CPU.
#pragma once
#include <cstdint>

namespace trireme::cuda {

// out[t, h, :] = x[t, h, :] W[h]^T.
struct HeadProblem {
  std::int64_t tokens = 0;
  int heads = 0, n = 0, k = 0;
  bool fp8 = false;  // the weights, one byte each
};

// The widths of a latent attention that the kernel is built for: into the latent (k 128) and out of it (n
// 128, k 512).
constexpr bool head_gemm_takes(int n, int k) {
  return (k == 128 && n > 0 && n <= 512 && n % 128 == 0) || (k == 512 && n == 128);
}

// A CTA keeps n / parts columns of one head's matrix and takes every chunks-th tile of `rows` tokens.
struct HeadTile {
  int rows = 0;  // 64 or 128
  int parts = 1, chunks = 1;
};

// Least data through the busiest multiprocessor. REQUIRES: head_gemm_takes, tokens > 0.
HeadTile choose_head_tile(const HeadProblem& p, int sms);

}  // namespace trireme::cuda
