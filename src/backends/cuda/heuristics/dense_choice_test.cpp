#include "backends/cuda/heuristics/dense_choice.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace trireme::cuda
