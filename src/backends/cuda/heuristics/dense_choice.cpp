#include "backends/cuda/heuristics/dense_choice.h"

#include "backends/cuda/heuristics/gemm_tile.h"

namespace trireme::cuda {
namespace {

constexpr std::int64_t kLeastRows = 96, kLeastDepth = 256;  // below: not modelled, and measured slower

}  // namespace

bool cublaslt_is_faster(std::int64_t rows, std::int64_t n, std::int64_t k, int sms) {
  if (rows < kLeastRows || k < kLeastDepth || is_small_product(n, k)) return false;
  const GemmShape s = {.fp8 = true, .rows_per_group = rows, .groups = 1, .n = n, .k = k, .sms = sms};
  return cublaslt_microseconds(s) < 0.98 * gemm_microseconds(s, choose_gemm_tile(s));
}

}  // namespace trireme::cuda
