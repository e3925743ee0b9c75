// Attention over any head sizes in plain CUDA: what runs where no kernel made for the shape exists.
//
// Scores, softmax and sums are float32. A query of a sequence of context C with n new tokens sees the keys up
// to its own: token i sees keys [0, C - n + i]. Rows whose sequence is padding (context 0) become zero.
// All sizes are even; values and keys of at most kGenericMaxDim.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

inline constexpr int kGenericMaxDim = 2048;

// Device arrays; the cache's blocks are 64 tokens.
struct PagedBatch {
  const std::int32_t* q_start = nullptr;      // [seqs + 1]
  const std::int32_t* context_len = nullptr;  // [seqs]
  const std::int32_t* block_table = nullptr;  // [seqs, max_blocks]
  std::int64_t max_blocks = 0;
  int seqs = 0;
};

struct MlaAbsorbedGenericArgs {
  const void* q_latent = nullptr;  // BF16 [tokens * heads, latent], rows q_latent_stride elements apart
  std::int64_t q_latent_stride = 0;
  const void* q_rope = nullptr;  // BF16 [tokens * heads, rope]
  std::int64_t q_rope_stride = 0;
  PagedBatch batch;
  const void* cache = nullptr;  // [blocks, 64, latent + rope] BF16, or with fp8 the bytes that KvLayout says
  bool fp8 = false;             // latent % 8 == 0 then
  float latent_scale = 1;       // of its codes
  float scale = 1;
  void* out = nullptr;  // BF16 [tokens * heads, latent]
  std::int64_t out_stride = 0;
  int tokens = 0, heads = 0, latent = 0, rope = 0;
};
cudaError_t mla_absorbed_generic(const MlaAbsorbedGenericArgs& a, cudaStream_t stream);

struct MlaExpandedGenericArgs {
  const void* q = nullptr;  // BF16 [tokens * heads, nope + rope]
  std::int64_t q_stride = 0;
  const void* kv = nullptr;  // BF16 [rows * heads, nope + v]
  std::int64_t kv_stride = 0;
  const void* k_rope = nullptr;  // BF16 [rows, rope]
  std::int64_t k_rope_stride = 0;
  PagedBatch batch;                       // block_table unused
  const std::int32_t* k_start = nullptr;  // [seqs + 1]: row of each sequence's first key
  float scale = 1;
  void* out = nullptr;  // BF16 [tokens * heads, v]
  std::int64_t out_stride = 0;
  int tokens = 0, heads = 0, nope = 0, rope = 0, v = 0;
};
cudaError_t mla_expanded_generic(const MlaExpandedGenericArgs& a, cudaStream_t stream);

struct GqaGenericArgs {
  const void* q = nullptr;  // BF16 [tokens * heads, dim]
  std::int64_t q_stride = 0;
  PagedBatch batch;
  const void* cache = nullptr;  // BF16 [blocks, 64, 2, kv_heads, dim]
  float scale = 1;
  int window = 0;       // a query sees its last `window` keys; 0: all
  void* out = nullptr;  // BF16 [tokens * heads, dim]
  std::int64_t out_stride = 0;
  int tokens = 0, heads = 0, kv_heads = 0, dim = 0;
};
cudaError_t gqa_generic(const GqaGenericArgs& a, cudaStream_t stream);

// Each sequence's cached latents and rope keys side by side: row k_start[s] + i is token i of sequence s.
// Rows past k_start[seqs] become zero.
struct MlaGatherKernelArgs {
  PagedBatch batch;                       // q_start unused
  const std::int32_t* k_start = nullptr;  // [seqs + 1]
  const void* cache = nullptr;            // as MlaAbsorbedGenericArgs
  bool fp8 = false;
  float latent_scale = 1;
  void* latent_out = nullptr;  // BF16 [rows, latent]
  std::int64_t latent_stride = 0;
  void* rope_out = nullptr;  // BF16 [rows, rope]
  std::int64_t rope_stride = 0;
  int rows = 0, latent = 0, rope = 0;
};
cudaError_t mla_gather_kernel(const MlaGatherKernelArgs& a, cudaStream_t stream);

}  // namespace trireme::cuda
