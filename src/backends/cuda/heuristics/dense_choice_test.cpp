#include "backends/cuda/heuristics/dense_choice.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

TEST(DenseChoice, FollowsWhatWasMeasured) {
  EXPECT_FALSE(cublaslt_is_faster(64, 24576, 1536));   // 102% of it
  EXPECT_FALSE(cublaslt_is_faster(128, 7168, 16384));  // 102%
  EXPECT_FALSE(cublaslt_is_faster(256, 2112, 7168));   // 105%
  EXPECT_TRUE(cublaslt_is_faster(256, 7168, 16384));   // 94%
  EXPECT_TRUE(cublaslt_is_faster(512, 7168, 16384));   // 90%
  EXPECT_TRUE(cublaslt_is_faster(128, 36864, 7168));   // 54%
  EXPECT_TRUE(cublaslt_is_faster(4096, 24576, 1536));  // 93%
  EXPECT_FALSE(cublaslt_is_faster(1, 129280, 7168));
}

}  // namespace
}  // namespace trireme::cuda
