// The gate and up product of a SwiGLU layer with what follows it in one kernel: silu(gate) * up as quantised
// rows, as BF16 rows, or as both. As gemm.h in everything else.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/sm90/gemm/gemm.h"

namespace trireme::cuda {

// Gate and up stay float32; their product is rounded to BF16, and a block of 128 of these shares one scale,
// max |h| / 448, as smxx/swiglu.h makes it of rows in memory.
struct GemmSwigluArgs {
  const void* x = nullptr;          // [rows, k] e4m3; 16-byte aligned
  std::int64_t x_stride = 0;        // bytes from row to row, a multiple of 16
  const float* x_scale = nullptr;   // [ceil(k/128)][x_scale_stride]; 16-byte aligned
  std::int64_t x_scale_stride = 0;  // >= rows, a multiple of 4
  const void* w = nullptr;          // [experts][2 n, k] e4m3, gate rows, then up rows; 16-byte aligned
  const float* w_scale = nullptr;   // [experts][2 n / 128][w_scale_stride]
  int w_scale_stride = 0;           // >= ceil(k/128)
  std::uint8_t* codes = nullptr;    // [rows, n] e4m3, dense, 16-byte aligned; or null
  float* scale = nullptr;           // [n/128][scale_stride]: of row r and block b at b * scale_stride + r
  std::int64_t scale_stride = 0;    // >= rows
  void* out = nullptr;              // [rows, n] BF16, 16-byte aligned; or null
  std::int64_t out_stride = 0;      // elements from row to row, a multiple of 8
  int n = 0, k = 0;                 // n % 128 == 0, k % 16 == 0
  GemmRows rows;                    // with a rows_hint every expert is taken to have so many
  int variant = -1;                 // an index into kSwigluPairs; negative: choose_swiglu_tile
  int sms = 0;                      // CTAs at most; 0: all
};

// cudaErrorInvalidValue for what the comments exclude. rows == 0 does nothing.
cudaError_t gemm_swiglu(const GemmSwigluArgs&, cudaStream_t);

}  // namespace trireme::cuda
