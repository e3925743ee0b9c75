// Attention of a few new tokens over the paged latent cache of DeepSeek's MLA, absorbed form: every head
// attends to the same 576 values a token (512 latent + 64 rope), and the values are the 512 latents.
//
// A step is planned once (mla_decode_plan) and the plan serves every layer (mla_decode). Both are graph-safe:
// grids depend only on the host's numbers below, and lengths are read on the device.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace trireme::cuda {

inline constexpr int kMlaDecodeMaxSeqs = 4096;
inline constexpr int kMlaDecodeMaxHeads = 128;
inline constexpr int kMlaDecodeMaxMultiprocessors = 256;

enum class MlaCache : std::uint8_t {
  bf16,  // a token is 512 latents and 64 rope values: 1,152 bytes
  // A token is 512 e4m3 codes and 64 BF16 rope values: 640 bytes. Latents are the codes times the cache's
  // latent_scale. Codes are multiplied as they are: with rows of q rounded to e4m3, and with probabilities,
  // 1/40 off in the mean.
  fp8,
};

enum class MlaSplit : std::uint8_t {
  balanced,  // contexts are cut where the multiprocessors' shares end
  // A row's result depends on nothing but its sequence's own queries and context; over a BF16 cache, on its
  // own query and context.
  never,
};

// What the host knows of a step; a plan and the calls that use it must agree on all of it.
struct MlaDecodeShape {
  int heads = 0;             // of a token; 1..128
  int seqs = 0;              // <= kMlaDecodeMaxSeqs; some may be padding
  int tokens = 0;            // rows of q, all sequences together
  int max_query_tokens = 0;  // of one sequence, at most
  int multiprocessors = 0;   // of the device
  MlaSplit split = MlaSplit::balanced;
};

// Bytes of a plan of any step with no more seqs and tokens, and of the scratch of one call. Pure.
std::size_t mla_decode_plan_bytes(const MlaDecodeShape& largest);
std::size_t mla_decode_workspace_bytes(const MlaDecodeShape& largest);

struct MlaDecodePlanArgs {
  MlaDecodeShape shape;
  const std::int32_t* q_start = nullptr;  // [seqs + 1]: row of the first new token of each
  const std::int32_t* context_len =
      nullptr;  // [seqs]: tokens in the cache, the new ones included; 0: padding
  const std::int32_t* block_table = nullptr;  // as the calls will have it
  std::int64_t block_table_stride = 0;
  bool tree = false;     // the calls will have a tree mask
  void* plan = nullptr;  // out; 256-byte aligned, mla_decode_plan_bytes()
};

cudaError_t mla_decode_plan(const MlaDecodePlanArgs&, cudaStream_t);

// Rows of q for an FP8 cache: the form of its tokens. A row is 512 e4m3 codes, which times the row's scale
// are its latents, and 64 BF16 rope values over that scale and over the cache's.
inline constexpr int kMlaQueryRow = 640;  // bytes

// Makes them out of BF16. Strides are in elements, multiples of 8; pointers 16-byte aligned.
struct MlaQueryRowsArgs {
  const void* q_latent = nullptr;  // BF16 [rows, 512]
  std::int64_t q_latent_stride = 512;
  const void* q_rope = nullptr;  // BF16 [rows, 64]
  std::int64_t q_rope_stride = 64;
  std::int64_t rows = 0;
  float latent_scale = 1;      // of the cache
  void* out = nullptr;         // [rows, kMlaQueryRow] bytes
  float* out_scale = nullptr;  // [rows]; a power of two each
};
cudaError_t mla_query_rows(const MlaQueryRowsArgs&, cudaStream_t);

// Strides are in elements, from one (token, head) row to the next; multiples of 8. Pointers of q, cache and
// out are 16-byte aligned. Rows of padding sequences are left as they were.
struct MlaDecodeArgs {
  MlaDecodeShape shape;
  const void* plan = nullptr;
  // With an FP8 cache: [tokens * heads, kMlaQueryRow] bytes and [tokens * heads] scales, instead of the next
  // four.
  const void* q_rows = nullptr;
  const float* q_scale = nullptr;
  const void* q_latent = nullptr;  // BF16 [tokens * heads, 512]
  std::int64_t q_latent_stride = 512;
  const void* q_rope = nullptr;  // BF16 [tokens * heads, 64]
  std::int64_t q_rope_stride = 64;
  const void* cache = nullptr;  // [blocks, 64, one token]
  MlaCache cache_type = MlaCache::bf16;
  float latent_scale = 1;  // of an FP8 cache; a power of two
  std::int64_t blocks = 0;
  const std::int32_t* block_table = nullptr;  // [seqs, block_table_stride]: physical block of each 64 tokens
  std::int64_t block_table_stride = 0;
  // [tokens] or null (causal): bit j lets a token see new token j of its own sequence; the context before the
  // new tokens is always seen. At most 64 new tokens a sequence then.
  const std::uint64_t* tree_mask = nullptr;
  float scale = 1;      // > 0
  void* out = nullptr;  // BF16 [tokens * heads, 512]
  std::int64_t out_stride = 512;
  float* lse = nullptr;  // [tokens * heads] or null: log2 of the sum of exp(scale * score)
  void* workspace =
      nullptr;  // 256-byte aligned, mla_decode_workspace_bytes(); not shared by calls that overlap
};

cudaError_t mla_decode(const MlaDecodeArgs&, cudaStream_t);

}  // namespace trireme::cuda
