#include "backends/cuda/heuristics/head_tile.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

constexpr int kSms = 132;

TEST(HeadTile, GivesEveryHeadOfDeepSeekOneCtaForAnyNumberOfTokens) {
  for (const std::int64_t tokens : {1, 64, 65, 128, 1000, 4096}) {
    for (const bool fp8 : {false, true}) {
      const HeadTile up = choose_head_tile({tokens, 128, 512, 128, fp8}, kSms);
      const HeadTile down = choose_head_tile({tokens, 128, 128, 512, fp8}, kSms);
      for (const HeadTile& t : {up, down}) {
        EXPECT_EQ(t.rows, tokens <= 64 ? 64 : 128) << tokens;
        EXPECT_EQ(t.parts * t.chunks, 1) << tokens;
      }
    }
  }
}

TEST(HeadTile, DividesFewHeadsByColumnsAndByTokens) {
  const HeadTile few = choose_head_tile({1, 16, 512, 128, false}, kSms);
  EXPECT_EQ(few.parts, 8);
  EXPECT_EQ(few.chunks, 1);
  const HeadTile many = choose_head_tile({4096, 16, 128, 512, false}, kSms);
  EXPECT_EQ(many.parts, 1);
  EXPECT_EQ(many.chunks, 8);
}

TEST(HeadTile, AlwaysFitsTheKernel) {
  for (int heads = 1; heads <= 192; heads = heads * 2 + 1) {
    for (std::int64_t tokens = 1; tokens <= 5000; tokens = tokens * 3 / 2 + 1) {
      for (const int n : {128, 256, 384, 512}) {
        const HeadTile t = choose_head_tile({tokens, heads, n, 128, false}, kSms);
        EXPECT_TRUE(t.rows == 64 || t.rows == 128);
        EXPECT_EQ(n / t.parts % (t.rows == 128 ? 128 : 64), 0);
        EXPECT_GE(t.chunks, 1);
      }
    }
  }
}

TEST(HeadTile, TakesTheWidthsOfALatentAttention) {
  EXPECT_TRUE(head_gemm_takes(512, 128));
  EXPECT_TRUE(head_gemm_takes(128, 512));
  EXPECT_FALSE(head_gemm_takes(64, 512));
  EXPECT_FALSE(head_gemm_takes(512, 192));
}

}  // namespace
}  // namespace trireme::cuda
