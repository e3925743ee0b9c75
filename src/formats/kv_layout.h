// The KV cache as bytes: 64-token blocks, one array of blocks a layer.
//
// MLA: a token is kv_lora_rank latent values, then qk_rope_head_dim rope values (512 + 64 for DeepSeek-V3).
// In FP8: the latents' e4m3 codes, whose scale is the layer's, then the rope values in BF16 (640 bytes). GQA:
// a token is its keys, [kv_heads, head_dim], then its values, [kv_heads, head_dim].
#pragma once
#include <algorithm>
#include <cmath>
#include <span>

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
    if (kind == Kind::kMla && dtype == DType::kF8E4M3) return latent_dim + i64{2} * rope_dim;
    return token_elements() * size_of(dtype);
  }
  i64 block_bytes() const { return kKvBlockTokens * token_bytes() * layers; }  // all layers
};

// The smallest power of two that `bound` does not exceed 448 times; 1 for zero and for nonsense.
inline float e4m3_scale_for(float bound) {
  const float scale = bound / 448;
  if (!(scale > 0x1p-100f) || !(scale < 0x1p100f)) return 1;
  return std::exp2(std::ceil(std::log2(scale)));
}

// What e4m3 codes of a layer's latents are multiplied by, from the weights of the norm that they come out of:
// an RMS norm of n values gives none above sqrt(n) times its weight. So no latent is cut off, and as e4m3 has
// the same relative error over 2^15 of magnitudes, none is the worse for a scale that is not its own. A power
// of two.
inline float kv_latent_scale(std::span<const float> norm) {
  float largest = 0;
  for (const float w : norm) largest = std::max(largest, std::abs(w));
  return e4m3_scale_for(largest * std::sqrt(static_cast<float>(norm.size())));
}

inline bool is_kv_scale(float scale) {
  int exponent = 0;
  return scale > 0 && std::frexp(scale, &exponent) == 0.5f;
}

}  // namespace trireme
