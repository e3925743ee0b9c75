#include "backends/cuda/heuristics/dense_choice.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

// Its time over our best tile's, on an H200.
TEST(DenseChoice, FollowsWhatWasMeasured) {
  EXPECT_FALSE(cublaslt_is_faster(64, 24576, 1536));    // 108%
  EXPECT_FALSE(cublaslt_is_faster(384, 7168, 16384));   // 130%
  EXPECT_FALSE(cublaslt_is_faster(1024, 2112, 7168));   // 128%
  EXPECT_FALSE(cublaslt_is_faster(4096, 7168, 16384));  // 104%
  EXPECT_FALSE(cublaslt_is_faster(4096, 24576, 1536));  // 104%
  EXPECT_FALSE(cublaslt_is_faster(1, 129280, 7168));
  EXPECT_TRUE(cublaslt_is_faster(192, 7168, 16384));  // 77%
  EXPECT_TRUE(cublaslt_is_faster(256, 7168, 16384));  // 90%
  EXPECT_TRUE(cublaslt_is_faster(512, 4096, 7168));   // 91%
}

}  // namespace
}  // namespace trireme::cuda
