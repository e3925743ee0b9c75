#include "backends/cuda/heuristics/dense_choice.h"

namespace trireme::cuda {
namespace {

constexpr std::int64_t kManyRows = 192, kWide = 4096;
constexpr std::int64_t kSomeRows = 96, kVeryWide = 32768;

}  // namespace

bool cublaslt_is_faster(std::int64_t rows, std::int64_t n, std::int64_t k) {
  if (k < 256) return false;  // not measured
  return (rows >= kManyRows && n >= kWide) || (rows >= kSomeRows && n >= kVeryWide);
}

}  // namespace trireme::cuda
