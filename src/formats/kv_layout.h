// The KV cache as bytes: 64-token blocks, one array of blocks a layer.
//
// MLA: a token is kv_lora_rank latent values, then qk_rope_head_dim rope values (512 + 64 for DeepSeek-V3).
// In FP8: the latents' e4m3 codes, their scale (float32, a power of two) once for each 128 of them, then the
// rope values over that scale in BF16 (656 bytes): scores over all of them need one multiplication. GQA: a
// token is its keys, [kv_heads, head_dim], then its values, [kv_heads, head_dim].
#pragma once
#include "base/types.h"
#include "tensor/dtype.h"

namespace trireme {

inline constexpr i64 kKvBlockTokens = 64;

struct KvLayout {
  enum class Kind : u8 { kMla, kGqa } kind = Kind::kMla;
  DType dtype = DType::kBF16;
  int layers = 0;
  int latent_dim = 0, rope_dim = 0;  // MLA
  int kv_heads = 0, head_dim = 0;    // GQA

  i64 token_elements() const {
    return kind == Kind::kMla ? i64{latent_dim} + rope_dim : i64{2} * kv_heads * head_dim;
  }
  i64 token_bytes() const {  // one layer
    if (kind == Kind::kMla && dtype == DType::kF8E4M3)
      return latent_dim + latent_dim / 128 * 4 + i64{2} * rope_dim;
    return token_elements() * size_of(dtype);
  }
  i64 block_bytes() const { return kKvBlockTokens * token_bytes() * layers; }  // all layers
};

}  // namespace trireme
