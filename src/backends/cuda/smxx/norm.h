// RMS norm of BF16 rows, with what comes before it (the residual sum) and after it (quantisation) in one
// pass.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/smxx/quantise.h"

namespace trireme::cuda::smxx {

inline constexpr int64_t kMaxNormColumns = 16384;  // a row stays in the registers of one block

// With y: x += y, rounded to BF16; the norm is of the rounded sum. out and q hold the norm rounded to BF16,
// so that each fused form gives the bits of its parts. The order of summation depends on n alone.
struct NormArgs {
  uint16_t* x = nullptr;        // [rows, n] BF16; written only where there is a y
  int64_t x_stride = 0;         // elements between rows, as all strides here
  const uint16_t* y = nullptr;  // [rows, n] BF16, or null
  int64_t y_stride = 0;
  const void* weight = nullptr;  // [n] float32, or BF16
  bool weight_bf16 = false;
  uint16_t* out = nullptr;  // [rows, n] BF16, or null
  int64_t out_stride = 0;
  QuantOut q = {};  // [rows, n], or none
  int64_t rows = 0, n = 0;
  float eps = 1e-6f;
};
cudaError_t norm(const NormArgs&, cudaStream_t);

}  // namespace trireme::cuda::smxx
