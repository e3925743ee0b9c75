// Rotary embedding and what is written to the KV cache, alone and in one pass.
//
// Strides are in elements. A token's place in the cache is slot * token_bytes; a negative slot keeps nothing.
// cos_sin is [max_position, dim] float32: dim/2 cosines, then dim/2 sines. A position outside it is taken as
// its last row.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda::smxx {

struct RopeTable {
  const float* cos_sin = nullptr;  // [max_position, dim]
  int64_t stride = 0, max_position = 0;
  const int32_t* positions = nullptr;  // [tokens]
  int dim = 0;                         // even, at most 256
  bool interleaved = false;            // pairs (2i, 2i+1); otherwise (i, i + dim/2)
};

struct RopeArgs {
  uint16_t* x = nullptr;    // [tokens, heads, ...] BF16, already at the first value to rotate
  int64_t head_stride = 0;  // between (token, head) rows
  int64_t tokens = 0, heads = 0;
  RopeTable table = {};
};
cudaError_t rope(const RopeArgs&, cudaStream_t);

struct MlaCache {
  char* data = nullptr;            // [slots, token_bytes]
  int64_t token_bytes = 0;         // latent + rope BF16 values, or FP8: codes, BF16 rope
  bool fp8 = false;                // latent % 8 == 0
  float codes_per_value = 1;       // of FP8: what latents are multiplied by
  const int32_t* slots = nullptr;  // [tokens]
};

inline constexpr int kMaxLatent = 1024;  // a token's latent stays in the registers of one warp

// With a norm: latent is the raw projection, normed here, and the shared key and q are rotated (the key only
// in the cache). Without: latent and key are written as they are and there is no q.
struct MlaAppendArgs {
  uint16_t* q = nullptr;      // [tokens, heads, ...] BF16, at the first value to rotate; or null
  int64_t q_head_stride = 0;  // between (token, head) rows
  int64_t heads = 0;
  const uint16_t* latent = nullptr;  // [tokens, latent_dim] BF16
  int64_t latent_stride = 0;
  const uint16_t* key = nullptr;  // [tokens, rope_dim] BF16
  int64_t key_stride = 0;
  const void* norm = nullptr;  // [latent_dim] float32 or BF16, or null
  bool norm_bf16 = false;
  float eps = 1e-6f;
  int latent_dim = 0, rope_dim = 0;
  int64_t tokens = 0;
  RopeTable table = {};  // where norm is given; dim == rope_dim
  MlaCache cache = {};
};
cudaError_t mla_append(const MlaAppendArgs&, cudaStream_t);

// Writes k and v to the cache; with a table, rotates q (if given) and k in place first.
struct GqaAppendArgs {
  uint16_t* q = nullptr;      // [tokens, heads, head_dim] BF16, or null
  int64_t q_head_stride = 0;  // between (token, head) rows, as for k and v
  int64_t heads = 0;
  uint16_t* k = nullptr;  // [tokens, kv_heads, head_dim] BF16; written only with a table
  int64_t k_head_stride = 0;
  const uint16_t* v = nullptr;  // [tokens, kv_heads, head_dim] BF16
  int64_t v_head_stride = 0;
  int64_t kv_heads = 0;
  int head_dim = 0;
  int64_t tokens = 0;
  RopeTable table = {};            // cos_sin null: k is rotated already
  char* cache = nullptr;           // [slots, 2, kv_heads, head_dim] BF16
  const int32_t* slots = nullptr;  // [tokens]
};
cudaError_t gqa_append(const GqaAppendArgs&, cudaStream_t);

}  // namespace trireme::cuda::smxx
