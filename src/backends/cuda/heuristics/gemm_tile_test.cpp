#include "backends/cuda/heuristics/gemm_tile.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

GemmTile tile_of(const GemmShape& s) {
  const int v = choose_gemm_tile(s);
  return s.fp8 ? kFp8Tiles[v] : kBf16Tiles[v];
}

TEST(GemmTile, IsAVariantWhateverTheShape) {
  for (const bool fp8 : {true, false}) {
    for (const std::int64_t m : {1, 7, 64, 65, 1000, 100000}) {
      for (const std::int64_t n : {8, 64, 576, 2112, 129280}) {
        for (const std::int64_t k : {16, 128, 7168, 18432}) {
          for (const std::int64_t groups : {1, 4, 256}) {
            for (const int sms : {1, 2, 24, 132}) {
              const int v = choose_gemm_tile({fp8, m, groups, n, k, sms});
              ASSERT_GE(v, 0);
              ASSERT_LT(v, fp8 ? kFp8TileCount : kBf16TileCount);
            }
          }
        }
      }
    }
  }
}

TEST(GemmTile, FewRowsGetAThinTile) {
  EXPECT_LT(tile_of({true, 1, 1, 7168, 16384, 132}).bm, kTallRows);
  EXPECT_LT(tile_of({true, 64, 1, 7168, 16384, 132}).bm, kTallRows);
  EXPECT_LT(tile_of({true, 16, 32, 7168, 2048, 132, true}).bm, kTallRows);
}

// A thin tile of a hot expert reads the weights once for every 32 rows: with Zipf's law 356 us, this one 245.
TEST(GemmTile, ExpertsOfUnknownLoadsGetATallTile) {
  EXPECT_GE(tile_of({true, 32, 32, 4096, 7168, 132}).bm, kTallRows);
}

// CTAs that share tiles do not take them as they come free: with Zipf's law 962 us against 905, 872 against
// 808.
TEST(GemmTile, ManyTilesOfUnknownLoadsAreNotShared) {
  EXPECT_EQ(tile_of({true, 256, 64, 4096, 7168, 132}).split, 1);
  EXPECT_EQ(tile_of({true, 512, 32, 4096, 7168, 132}).split, 1);
}

// As `bench kernels --tune` measured it on an H200.
TEST(GemmTile, FollowsWhatWasMeasured) {
  EXPECT_EQ(tile_of({true, 4096, 1, 7168, 16384, 132}).bn, 256);
  EXPECT_EQ(tile_of({true, 512, 4, 4096, 7168, 132, true}).bn, 256);
  EXPECT_EQ(tile_of({true, 512, 4, 7168, 2048, 132, true}).bn, 192);
  EXPECT_EQ(tile_of({true, 512, 1, 24576, 1536, 132}).bn, 192);
}

TEST(GemmTile, ManyRowsGetATallTile) {
  EXPECT_GE(tile_of({true, 4096, 1, 7168, 16384, 132}).bm, 128);
  EXPECT_GE(tile_of({false, 4096, 1, 8192, 8192, 132}).bm, 128);
}

TEST(GemmTile, OneMultiprocessorRunsNoClusters) {
  EXPECT_EQ(tile_of({true, 4096, 1, 7168, 16384, 1}).cluster, 1);
  EXPECT_EQ(tile_of({false, 4096, 1, 8192, 8192, 1}).cluster, 1);
}

// Drawn one by one some experts have a few rows more than two blocks: wide tiles would make a round more.
TEST(GemmTile, ExpertsThatDrewAFewRowsMoreGetNarrowerTiles) {
  EXPECT_LT(tile_of({true, 256, 4, 7168, 2048, 132}).bn, 256);
}

TEST(GemmTile, ClustersShareTilesOnlyWhereAllRunAtOnce) {
  EXPECT_EQ(gather_ctas(34, 56, 132), 3);
  EXPECT_EQ(gather_ctas(17, 56, 132), 6);
  EXPECT_EQ(gather_ctas(1, 1000, 132), kGatherMost);
  EXPECT_EQ(gather_ctas(67, 1000, 132), 1);  // more tiles than pairs
  EXPECT_EQ(gather_ctas(1, 7, 132), 1);      // too few steps for two
  EXPECT_EQ(gather_ctas(1, 1000, 1), 1);
}

// Where tiles are few, their K is shared.
TEST(GemmTile, AFewTilesAreSpreadOverTheChip) {
  EXPECT_GT(tile_of({true, 256, 1, 2112, 7168, 132}).split, 1);
}

}  // namespace
}  // namespace trireme::cuda
