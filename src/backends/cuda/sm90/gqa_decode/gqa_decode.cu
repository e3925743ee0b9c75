#include "backends/cuda/sm90/gqa_decode/gqa_decode.h"

#include "backends/cuda/sm90/gqa_decode/combine.cuh"

namespace trireme::cuda {
namespace {

struct Variant {
  int dim, rows;  // rows of queries that a pass over the keys serves
  std::int64_t (*workspace)(const GqaDecodeArgs&);
  cudaError_t (*launch)(const GqaDecodeArgs&, cudaStream_t);
};

template <int kDim, int kTiles>
constexpr Variant variant() {
  return {kDim, 16 * kTiles, gqa::workspace_bytes<kDim, kTiles>, gqa::launch_both<kDim, kTiles>};
}

// By rows, then the widest a dim has.
constexpr Variant kVariants[] = {variant<64, 1>(),  variant<64, 2>(),  variant<64, 4>(),
                                 variant<80, 1>(),  variant<96, 1>(),  variant<128, 1>(),
                                 variant<128, 2>(), variant<128, 4>(), variant<256, 1>()};

// The smallest that takes a sequence's rows at once, else the largest.
const Variant* variant_for(const GqaDecodeArgs& a) {
  const Variant* best = nullptr;
  for (const Variant& v : kVariants)
    if (v.dim == a.dim && (best == nullptr || best->rows < a.max_tokens * (a.heads / a.kv_heads))) best = &v;
  return best;
}

}  // namespace

bool gqa_decode_supports(int dim, int heads, int kv_heads, int max_tokens, int seqs) {
  if (kv_heads <= 0 || heads % kv_heads != 0 || heads / kv_heads > kGqaDecodeMaxGroup) return false;
  if (max_tokens > kGqaDecodeMaxTokens || seqs > kGqaDecodeMaxSeqs) return false;
  for (const Variant& v : kVariants)
    if (v.dim == dim) return true;
  return false;
}

std::int64_t gqa_decode_workspace_bytes(const GqaDecodeArgs& a) {
  const Variant* v = variant_for(a);
  return v == nullptr ? 0 : v->workspace(a);
}

cudaError_t gqa_decode(const GqaDecodeArgs& a, cudaStream_t stream) {
  const Variant* v = variant_for(a);
  if (v == nullptr || !gqa_decode_supports(a.dim, a.heads, a.kv_heads, a.max_tokens, a.batch.seqs))
    return cudaErrorInvalidValue;
  if (a.tokens == 0) return cudaSuccess;
  return v->launch(a, stream);
}

}  // namespace trireme::cuda
