#include "backends/cuda/heuristics/router_tile.h"

#include <gtest/gtest.h>

namespace trireme::cuda {
namespace {

constexpr int kSms = 132;

TEST(RouterTile, RunsInOneWaveWhereItCan) {
  EXPECT_EQ(choose_router_columns(1, 256, 7168, kSms), 32);    // 9.5 us; 16 columns 12.7
  EXPECT_EQ(choose_router_columns(128, 256, 7168, kSms), 64);  // 10.9 us; 32 columns 15.2
  EXPECT_EQ(choose_router_columns(256, 256, 7168, kSms), 128);
  EXPECT_EQ(choose_router_columns(512, 256, 7168, kSms), 128);
  EXPECT_EQ(choose_router_columns(128, 8, 4096, kSms), 16);
}

TEST(RouterTile, FollowsWhatWasMeasured) {
  EXPECT_TRUE(router_gemm_is_faster(128, 8, 4096));     // 6.6 us; cuBLASLt 8.6
  EXPECT_FALSE(router_gemm_is_faster(128, 256, 7168));  // 10.9 us; cuBLASLt 9.8
  EXPECT_FALSE(router_gemm_is_faster(4096, 256, 7168));
}

}  // namespace
}  // namespace trireme::cuda
