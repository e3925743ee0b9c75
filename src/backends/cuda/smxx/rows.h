// Whole rows moved or summed: picking rows, the embedding, x += y, copies of KV blocks.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda::smxx {

// out[i, :] = x[rows[i], :]. An index outside x gives a row of NaN rather than a fault.
struct GatherArgs {
  const void* x = nullptr;  // [x_rows, n] BF16, or float32
  bool x_f32 = false;
  int64_t x_stride = 0;  // elements between rows, as all strides here
  int64_t x_rows = 0;
  const int32_t* rows = nullptr;  // [picked], on the device
  uint16_t* out = nullptr;        // [picked, n] BF16
  int64_t out_stride = 0;
  int64_t picked = 0, n = 0;
};
cudaError_t gather(const GatherArgs&, cudaStream_t);

// x += y, rounded to BF16.
struct AddArgs {
  uint16_t* x = nullptr;  // [rows, n] BF16
  int64_t x_stride = 0;
  const uint16_t* y = nullptr;  // [rows, n] BF16
  int64_t y_stride = 0;
  int64_t rows = 0, n = 0;
};
cudaError_t add(const AddArgs&, cudaStream_t);

// The first bytes of blocks within each of some arrays of blocks. Travels by value with the launch. No block
// is written that another copy of the same call reads or writes.
struct BlockCopyArgs {
  static constexpr int kMost = 64;
  struct Copy {
    int32_t from = 0, to = 0, tokens = 0;
  };
  struct Layer {
    char* data = nullptr;     // [blocks, block_tokens, token_bytes]
    int64_t token_bytes = 0;  // even
  };
  Copy copy[kMost];
  Layer layer[kMost];
  int copies = 0, layers = 0;
  int64_t block_tokens = 64;
};
cudaError_t copy_blocks(const BlockCopyArgs&, cudaStream_t);

}  // namespace trireme::cuda::smxx
