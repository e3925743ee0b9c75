// BF16 rows as e4m3 codes with a float32 scale for each 128 values of a row.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda::smxx {

// Where a kernel leaves quantised rows. codes null: nowhere.
struct QuantOut {
  uint8_t* codes = nullptr;  // [rows, k] e4m3, dense, 8-byte aligned; k % 16 == 0
  float* scale = nullptr;    // [ceil(k/128), scale_stride]: row r of block b at b * scale_stride + r
  int64_t scale_stride = 0;
};

struct QuantiseArgs {
  const uint16_t* x = nullptr;  // [rows, k] BF16
  int64_t x_stride = 0;         // elements between rows
  int64_t rows = 0, k = 0;
  QuantOut q = {};
};
cudaError_t quantise(const QuantiseArgs&, cudaStream_t);

}  // namespace trireme::cuda::smxx
