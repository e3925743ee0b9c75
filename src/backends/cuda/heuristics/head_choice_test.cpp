#include "backends/cuda/heuristics/head_choice.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

TEST(HeadChoice, FollowsWhatWasMeasured) {
  for (const std::int64_t tokens : {1, 64, 128, 256, 4096}) {
    EXPECT_TRUE(head_gemm_is_faster({tokens, 128, 512, 128, false})) << tokens;
    EXPECT_TRUE(head_gemm_is_faster({tokens, 128, 128, 512, false})) << tokens;
  }
}

TEST(HeadChoice, LeavesOtherWidthsToCublasLt) {
  EXPECT_FALSE(head_gemm_is_faster({64, 16, 512, 192, false}));
  EXPECT_FALSE(head_gemm_is_faster({64, 16, 256, 512, false}));
}

TEST(HeadChoice, KeepsNoCodesOfHeads) { EXPECT_EQ(heads_keep_fp8(512, 128), kFp8Heads); }

}  // namespace
}  // namespace trireme::cuda
