#include "backends/cuda/heuristics/dense_choice.h"

#include <gtest/gtest.h>

#include "backends/cuda/heuristics/gemm_tile.h"

namespace trireme::cuda {
namespace {

// Its time over our best tile's, on an H200.
TEST(DenseChoice, FollowsWhatWasMeasured) {
  EXPECT_FALSE(cublaslt_is_faster(64, 24576, 1536));    // 106%
  EXPECT_FALSE(cublaslt_is_faster(128, 4096, 7168));    // 110%
  EXPECT_FALSE(cublaslt_is_faster(256, 2112, 7168));    // 113%
  EXPECT_FALSE(cublaslt_is_faster(384, 7168, 16384));   // 128%
  EXPECT_FALSE(cublaslt_is_faster(512, 7168, 16384));   // 107%
  EXPECT_FALSE(cublaslt_is_faster(1024, 2112, 7168));   // 122%
  EXPECT_FALSE(cublaslt_is_faster(4096, 7168, 16384));  // 111%
  EXPECT_FALSE(cublaslt_is_faster(4096, 24576, 1536));  // 109%
  EXPECT_FALSE(cublaslt_is_faster(1, 129280, 7168));
  EXPECT_TRUE(cublaslt_is_faster(256, 24576, 1536));  // 90%
  EXPECT_TRUE(cublaslt_is_faster(192, 7168, 16384));  // 83%
  EXPECT_TRUE(cublaslt_is_faster(256, 7168, 16384));  // 89%
  EXPECT_TRUE(cublaslt_is_faster(512, 4096, 7168));   // 89%
}

// Their times are launches. A choice between two kernels would only make tokens depend on their company: one
// fit gave the library a launch of 1 us, and a batch of 16 answered otherwise than each of its requests
// alone.
TEST(DenseChoice, ASmallModelsProductsAreOursWithOneTileForAnyBatch) {
  constexpr std::int64_t kShapes[][2] = {{832, 512}, {768, 256}, {512, 512}, {2048, 512}, {512, 1024}};
  for (const auto& [n, k] : kShapes) {
    const int tile = choose_gemm_tile({.fp8 = true, .rows_per_group = 1, .groups = 1, .n = n, .k = k});
    for (const std::int64_t rows : {2, 16, 31, 64, 96, 160, 256, 1000, 8192}) {
      const GemmShape s = {.fp8 = true, .rows_per_group = rows, .groups = 1, .n = n, .k = k};
      EXPECT_EQ(choose_gemm_tile(s), tile) << rows << " x " << n << " x " << k;
      EXPECT_FALSE(cublaslt_is_faster(rows, n, k)) << rows << " x " << n << " x " << k;
    }
  }
}

}  // namespace
}  // namespace trireme::cuda
