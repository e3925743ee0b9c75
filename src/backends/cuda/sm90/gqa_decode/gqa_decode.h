// Grouped-query attention of sequences with few new tokens, bound by reading their keys and values.
//
// The 64-token cache blocks of all sequences and KV heads form one list, divided evenly among a fixed number
// of CTAs, so that ragged batches and single long sequences keep the whole chip busy; what a CTA sees of a
// sequence whose blocks others share is merged by a second kernel. The division is computed on the device:
// the launch depends only on the bounds given here, and may be recorded into a graph.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/smxx/attention_generic.h"

namespace trireme::cuda {

inline constexpr int kGqaDecodeMaxTokens = 8;  // new tokens of one sequence
inline constexpr int kGqaDecodeMaxGroup = 16;  // query heads a KV head
inline constexpr int kGqaDecodeMaxSeqs = 2048;

struct GqaDecodeArgs {
  const void* q = nullptr;  // BF16 [tokens * heads, dim]; 16-byte aligned, as are its rows
  std::int64_t q_stride = 0;
  PagedBatch batch;
  int max_tokens = 1;            // sequences with more new tokens are left alone, with their rows of out
  std::int64_t max_context = 0;  // no context is longer
  const void* cache = nullptr;   // BF16 [blocks, 64, 2, kv_heads, dim]; 16-byte aligned
  float scale = 1;
  int window = 0;       // a query sees its last `window` keys; 0: all
  void* out = nullptr;  // BF16 [tokens * heads, dim]; rows of padding sequences become zero
  std::int64_t out_stride = 0;
  int tokens = 0, heads = 0, kv_heads = 0, dim = 0;
  int sms = 132;
  void* workspace = nullptr;  // gqa_decode_workspace_bytes
};

// Dims 64, 80, 96, 128 and 256; groups and new tokens up to the limits above.
bool gqa_decode_supports(int dim, int heads, int kv_heads, int max_tokens, int seqs);
std::int64_t gqa_decode_workspace_bytes(const GqaDecodeArgs& a);
cudaError_t gqa_decode(const GqaDecodeArgs& a, cudaStream_t stream);

}  // namespace trireme::cuda
