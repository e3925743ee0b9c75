#include "backends/cuda/heuristics/attention_choice.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

GqaChoice llama(std::int64_t seqs, std::int64_t max_tokens) {
  return {.heads = 32, .kv_heads = 8, .dim = 128, .seqs = seqs, .max_tokens = max_tokens};
}

TEST(AttentionChoice, FewNewTokensDecodeAndManyPrefill) {
  EXPECT_EQ(choose_gqa(llama(64, 1)), AttentionKernel::decode);
  EXPECT_EQ(choose_gqa(llama(1, 8)), AttentionKernel::decode);
  EXPECT_EQ(choose_gqa(llama(1, 9)), AttentionKernel::prefill);
  EXPECT_EQ(choose_gqa(llama(2, 9)), AttentionKernel::decode_and_prefill);
}

TEST(AttentionChoice, ShapesWithoutAKernelOfTheirOwnAreGeneric) {
  GqaChoice c = llama(4, 1);
  c.dim = 72;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::generic);
  c.dim = 96;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::decode);
  c.max_tokens = 100;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::generic);
  c = llama(4, 1);
  c.aligned = false;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::generic);
  c = llama(4, 1);
  c.heads = 33;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::generic);
}

TEST(AttentionChoice, AGroupTooWideForDecodePrefillsItsTokens) {
  GqaChoice c = llama(4, 1);
  c.kv_heads = 1;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::prefill);
}

TEST(AttentionChoice, DeterministicRowsNeverShareTheChip) {
  GqaChoice c = llama(64, 1);
  c.deterministic = true;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::prefill);
  c.dim = 96;
  EXPECT_EQ(choose_gqa(c), AttentionKernel::generic);
}

TEST(AttentionChoice, MlaKernelsAreForDeepSeeksShapes) {
  EXPECT_EQ(choose_mla_absorbed({.heads = 16, .latent = 512, .rope = 64, .seqs = 3}),
            AttentionKernel::decode);
  EXPECT_EQ(choose_mla_absorbed({.heads = 16, .latent = 256, .rope = 64, .seqs = 3}),
            AttentionKernel::generic);
  EXPECT_EQ(choose_mla_absorbed({.heads = 129, .latent = 512, .rope = 64, .seqs = 3}),
            AttentionKernel::generic);
  EXPECT_EQ(choose_mla_expanded({.nope = 128, .rope = 64, .v = 128}), AttentionKernel::prefill);
  EXPECT_EQ(choose_mla_expanded({.nope = 128, .rope = 64, .v = 128, .aligned = false}),
            AttentionKernel::generic);
  EXPECT_EQ(choose_mla_expanded({.nope = 24, .rope = 8, .v = 20}), AttentionKernel::generic);
}

TEST(AttentionChoice, ProductsInFp8AreForTheShapesThatHaveThem) {
  EXPECT_EQ(choose_mla_expanded({.nope = 128, .rope = 64, .v = 128, .fp8 = true}),
            AttentionKernel::prefill_fp8);
  EXPECT_EQ(choose_mla_expanded({.nope = 128, .rope = 64, .v = 128, .aligned = false, .fp8 = true}),
            AttentionKernel::generic);
  EXPECT_EQ(choose_mla_expanded({.nope = 24, .rope = 8, .v = 20, .fp8 = true}), AttentionKernel::generic);
}

}  // namespace
}  // namespace trireme::cuda
