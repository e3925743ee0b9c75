#include "backends/cuda/heuristics/swiglu_choice.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

SwigluShape experts(std::int64_t groups, std::int64_t rows) {
  return {.rows_per_group = rows, .groups = groups, .n = 2048, .k = 7168};
}
SwigluShape dense(std::int64_t rows, std::int64_t n) {
  return {.rows_per_group = rows, .groups = 1, .n = n, .k = 7168};
}
int pair(const SwigluShape& s) { return kSwigluPairs[choose_swiglu_tile(s)]; }

TEST(SwigluChoice, PairsWhereEveryExpertHasManyRows) {
  for (SwigluShape s : {experts(4, 512), experts(8, 1024), dense(4096, 2048)}) {
    s.even = true;
    EXPECT_EQ(pair(s), 2);
    EXPECT_TRUE(swiglu_fused_is_faster(s)) << s.groups << " x " << s.rows_per_group;
  }
}

// The product alone has tiles of other widths, which fill the last round better.
TEST(SwigluChoice, PartsWhereUnevenLoadsMakeFewRounds) {
  EXPECT_FALSE(swiglu_fused_is_faster(experts(4, 256)));
  EXPECT_FALSE(swiglu_fused_is_faster(experts(4, 512)));
  EXPECT_TRUE(swiglu_fused_is_faster(experts(9, 3640)));
}

TEST(SwigluChoice, NoPairsWhereHalfOfThemWouldBeIdle) {
  EXPECT_EQ(pair(experts(32, 128)), 1);
  EXPECT_TRUE(swiglu_fused_is_faster(experts(32, 128)));
}

// The product has tiles for few rows and few columns.
TEST(SwigluChoice, PartsWhereTilesAreFew) {
  for (const std::int64_t rows : {16, 64, 128})
    EXPECT_FALSE(swiglu_fused_is_faster(dense(rows, 2048))) << rows;
}

TEST(SwigluChoice, ASmallModelRunsPartsForAnyBatch) {
  for (const std::int64_t rows : {1, 16, 256, 1024, 8192}) {
    EXPECT_FALSE(swiglu_fused_is_faster({.rows_per_group = rows, .groups = 1, .n = 1024, .k = 512})) << rows;
    EXPECT_FALSE(swiglu_fused_is_faster({.rows_per_group = rows, .groups = 16, .n = 128, .k = 512})) << rows;
  }
}

TEST(SwigluChoice, EveryShapeAndChipHasAVariant) {
  for (const int sms : {1, 2, 78, 114, 132}) {
    for (std::int64_t rows = 1; rows <= 100000; rows = rows * 3 + 1) {
      for (const std::int64_t n : {128, 2048, 18432}) {
        for (const std::int64_t k : {16, 512, 7168}) {
          const SwigluShape s = {.rows_per_group = rows, .groups = 3, .n = n, .k = k, .sms = sms};
          const int v = choose_swiglu_tile(s);
          ASSERT_GE(v, 0);
          ASSERT_LT(v, kSwigluVariants);
          ASSERT_LE(kSwigluPairs[v], sms);
        }
      }
    }
  }
}

}  // namespace
}  // namespace trireme::cuda
