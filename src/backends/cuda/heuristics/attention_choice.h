// Which kernel computes an attention. Pure: no CUDA here, tested on a CPU.
#pragma once
#include <cstdint>

namespace trireme::cuda {

enum class AttentionKernel : std::uint8_t {
  generic,            // any shape, plain CUDA
  decode,             // few new tokens a sequence: divides contexts among the chip, reads keys once
  prefill,            // many new tokens: tensor cores on tiles of 128 queries
  prefill_fp8,        // the same, most of it in FP8
  decode_and_prefill  // each takes its sequences of a mixed batch
};

struct GqaChoice {
  int heads = 0, kv_heads = 0, dim = 0;
  std::int64_t seqs = 0;
  std::int64_t max_tokens = 0;  // bound on the new tokens of one sequence
  bool aligned = true;          // rows begin on 16 bytes
  bool deterministic = false;   // a row must not depend on what else is in the batch
};
AttentionKernel choose_gqa(const GqaChoice&);

// Sequences of up to so many new tokens are the decode kernel's where both run.
inline constexpr int kDecodeTokens = 8;

struct MlaAbsorbedChoice {
  int heads = 0, latent = 0, rope = 0;
  std::int64_t seqs = 0;
  bool aligned = true;
};
AttentionKernel choose_mla_absorbed(const MlaAbsorbedChoice&);

struct MlaExpandedChoice {
  std::int64_t nope = 0, rope = 0, v = 0;
  bool aligned = true;
  bool fp8 = false;  // products may be in FP8
};
AttentionKernel choose_mla_expanded(const MlaExpandedChoice&);

}  // namespace trireme::cuda
