// How a BF16 product with a small matrix, a MoE router's logits, is divided. Pure: no CUDA here, tested on a
// CPU.
#pragma once
#include <cstdint>

namespace trireme::cuda {

inline constexpr int kRouterColumns[] = {16, 32, 64, 128};  // widths of a tile; it has 64 rows
inline constexpr int kRouterSlices = 8;                     // of k, one for each CTA of a cluster

// The width whose busiest multiprocessor reads least. REQUIRES: all positive.
int choose_router_columns(std::int64_t rows, int n, int k, int sms);

// Whether the kernel is ahead of cuBLASLt, by measurement on an H200: where a product is short of rows and
// of columns, and long in k. Where results must not depend on the batch it is ahead of our other kernels
// for more columns as well.
bool router_gemm_is_faster(std::int64_t rows, std::int64_t n, std::int64_t k);

}  // namespace trireme::cuda
