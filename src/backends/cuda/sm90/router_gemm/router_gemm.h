// out = x W^T in BF16 with float32 out, for a matrix so small that tiles alone do not fill the chip: a
// cluster of CTAs divides k and adds up what each found through its shared memory. Launches are thread-safe,
// allocate nothing and may begin while the kernel before them on the stream drains (programmatic dependent
// launch); the matrix is read before that one has ended, so nothing on the stream may write it.
//
// A row of the output is the same sum in the same order for any number of rows and any tile.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

struct RouterGemmArgs {
  const void* x = nullptr;      // [rows, k] BF16; 16-byte aligned
  std::int64_t x_stride = 0;    // elements from row to row, a multiple of 8
  const void* w = nullptr;      // [n, k] BF16, contiguous; 16-byte aligned
  float* out = nullptr;         // [rows, n]
  std::int64_t out_stride = 0;  // elements from row to row
  std::int64_t rows = 0;
  int n = 0, k = 0;  // k % 8 == 0
  int columns = 0;   // of a tile, one of kRouterColumns; 0: choose_router_columns
};

// cudaErrorInvalidValue for what the comments above exclude. rows == 0 does nothing.
cudaError_t router_gemm(const RouterGemmArgs&, cudaStream_t);

}  // namespace trireme::cuda
