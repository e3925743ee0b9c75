// FP8 matrices with block scales from [k][n] as they are stored to [n][k] as wgmma reads codes.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

struct TurnCodesArgs {
  const void* codes = nullptr;    // [count][rows][cols], a byte each
  const float* scale = nullptr;   // [count][rows / 128][scale_stride], of blocks of 128 x 128
  std::int64_t scale_stride = 0;  // >= cols / 128
  void* out = nullptr;            // [count][cols][rows]
  float* out_scale = nullptr;     // [count][cols / 128][out_scale_stride]; what lies behind a row is zeroed
  std::int64_t out_scale_stride = 0;  // >= rows / 128
  int count = 0, rows = 0, cols = 0;  // multiples of 128
};
cudaError_t turn_codes(const TurnCodesArgs&, cudaStream_t);

}  // namespace trireme::cuda
