// Plain-CUDA helpers around the matrix products: taking stored weights apart, products of shapes that the
// tensor core kernels do not take, and what is left to do on an output.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

// out[i] = code * scale of its 128x128 block, as BF16. Rows of codes lie one after the other.
struct DequantiseArgs {
  const void* codes = nullptr;   // [n, k] e4m3
  const float* scale = nullptr;  // [ceil(n/128), scale_stride]
  std::int64_t scale_stride = 0;
  void* out = nullptr;  // [n, k] BF16
  std::int64_t n = 0, k = 0;
};
cudaError_t dequantise_blocks(const DequantiseArgs& a, cudaStream_t stream);

// float16 to BF16, in place (both are two bytes).
cudaError_t f16_to_bf16(void* data, std::int64_t n, cudaStream_t stream);

// One output at a time: y = x W^T (+ y), for any sizes. BF16 inputs.
struct PlainGemmArgs {
  const void* x = nullptr;  // [rows, k], x_stride elements from row to row
  std::int64_t x_stride = 0;
  const void* w = nullptr;  // [experts][n, k], or [experts][k, n] when transposed
  bool w_transposed = false;
  void* out = nullptr;  // [rows, n] BF16 or float32, out_stride elements from row to row
  std::int64_t out_stride = 0;
  bool out_f32 = false, accumulate = false;
  std::int64_t rows = 0, n = 0, k = 0;
  int experts = 1;
  const std::int32_t* expert_end = nullptr;  // device, [experts]: which rows are whose; null: one matrix
  // Members of a batch (heads): gridded, with these steps in elements.
  int batch = 1;
  std::int64_t x_next = 0, w_next = 0, out_next = 0;
};
cudaError_t plain_gemm(const PlainGemmArgs& a, cudaStream_t stream);

// out = weight * (value + bias) + residual, in the type of out. In place where value has that type.
struct FinishArgs {
  const void* value = nullptr;  // [rows, n] float32 or BF16
  bool value_f32 = false;
  std::int64_t value_stride = 0;
  const float* bias = nullptr;     // [n] or null
  const float* weight = nullptr;   // [rows] or null
  const void* residual = nullptr;  // [rows, n] of out's type, which it may be; or null
  std::int64_t residual_stride = 0;
  const std::int32_t* rows_used = nullptr;  // device: how many of the rows to compute; null: all
  void* out = nullptr;                      // [rows, n]
  bool out_f32 = false;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0, n = 0;
};
cudaError_t finish_rows(const FinishArgs& a, cudaStream_t stream);

}  // namespace trireme::cuda
