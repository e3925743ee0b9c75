#include "backends/cuda/heuristics/attention_choice.h"

namespace trireme::cuda {
namespace {

constexpr int kMostGroup = 16;            // query heads a KV head that the decode kernel packs into its tiles
constexpr std::int64_t kMostSeqs = 2048;  // whose prefix of blocks fits its shared memory
constexpr int kMostMlaHeads = 128;
constexpr std::int64_t kMostMlaSeqs = 4096;

bool gqa_decode_dim(int dim) { return dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256; }
bool gqa_prefill_dim(int dim) { return dim == 64 || dim == 128; }

}  // namespace

AttentionKernel choose_gqa(const GqaChoice& c) {
  if (!c.aligned || c.kv_heads <= 0 || c.heads % c.kv_heads != 0) return AttentionKernel::generic;
  const bool prefill = gqa_prefill_dim(c.dim);
  // A context divided among the chip is summed in an order that depends on its neighbours.
  if (c.deterministic) return prefill ? AttentionKernel::prefill : AttentionKernel::generic;
  const bool decode = gqa_decode_dim(c.dim) && c.heads / c.kv_heads <= kMostGroup && c.seqs <= kMostSeqs;
  if (c.max_tokens <= kDecodeTokens && decode) return AttentionKernel::decode;
  if (!prefill) return AttentionKernel::generic;
  return decode && c.seqs > 1 ? AttentionKernel::decode_and_prefill : AttentionKernel::prefill;
}

AttentionKernel choose_mla_absorbed(const MlaAbsorbedChoice& c) {
  const bool fits = c.aligned && c.latent == 512 && c.rope == 64 && c.heads >= 1 &&
                    c.heads <= kMostMlaHeads && c.seqs <= kMostMlaSeqs;
  return fits ? AttentionKernel::decode : AttentionKernel::generic;
}

AttentionKernel choose_mla_expanded(const MlaExpandedChoice& c) {
  const bool fits = c.aligned && c.nope == 128 && c.rope == 64 && c.v == 128;
  if (!fits) return AttentionKernel::generic;
  return c.fp8 ? AttentionKernel::prefill_fp8 : AttentionKernel::prefill;
}

}  // namespace trireme::cuda
