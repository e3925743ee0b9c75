// Causal attention of many new tokens, bound by the tensor cores: keys and values arrive through the copy
// engine while two warpgroups of 64 queries each multiply. Token i of a sequence of context C with n new
// tokens sees keys [0, C - n + i]. Graph-safe: lengths are read on the device.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/smxx/attention_generic.h"

namespace trireme::cuda {

struct FlashBatch {
  PagedBatch batch;
  int min_tokens = 1;           // sequences with fewer new tokens are left alone, with their rows of out
  int tokens = 0;               // rows of q, all sequences together
  int sms = 132;                // multiprocessors
  unsigned* counter = nullptr;  // one word of device memory for the call; needs no value
};

// Expanded MLA of 128 + 64 key and 128 value columns.
struct FlashMlaArgs {
  FlashBatch seqs;          // block_table unused
  const void* q = nullptr;  // BF16 [tokens * heads, 192], rows q_stride elements apart
  std::int64_t q_stride = 192;
  const void* kv = nullptr;  // BF16 [rows * heads, 128 key | 128 value]
  std::int64_t kv_stride = 256;
  const void* k_rope = nullptr;  // BF16 [rows, 64]
  std::int64_t k_rope_stride = 64;
  const std::int32_t* k_start = nullptr;  // [seqs + 1]: row of each sequence's first key
  std::int64_t rows = 0;
  float scale = 1;
  void* out = nullptr;  // BF16 [tokens * heads, 128]
  std::int64_t out_stride = 128;
  int heads = 0;
};
cudaError_t flash_mla(const FlashMlaArgs& a, cudaStream_t stream);

// Grouped-query attention over the paged cache; dim 64 or 128.
struct FlashGqaArgs {
  FlashBatch seqs;
  const void* q = nullptr;  // BF16 [tokens * heads, dim]
  std::int64_t q_stride = 0;
  const void* cache = nullptr;  // BF16 [blocks, 64, 2, kv_heads, dim]
  std::int64_t blocks = 0;
  float scale = 1;
  int window = 0;       // a query sees its last `window` keys; 0: all
  void* out = nullptr;  // BF16 [tokens * heads, dim]
  std::int64_t out_stride = 0;
  int heads = 0, kv_heads = 0, dim = 0;
};
cudaError_t flash_gqa(const FlashGqaArgs& a, cudaStream_t stream);

// Pointers are 16-byte aligned and strides multiples of 8; rows of padding sequences become zero.

}  // namespace trireme::cuda
