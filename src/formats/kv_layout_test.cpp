#include "formats/kv_layout.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace trireme {
namespace {

float scale_of(float weight, std::size_t n = 512) { return kv_latent_scale(std::vector<float>(n, weight)); }

TEST(KvLayout, TokensAreAsLongAsTheyAreSaidToBe) {
  KvLayout l{.dtype = DType::kBF16, .layers = 61, .latent_dim = 512, .rope_dim = 64};
  EXPECT_EQ(l.token_bytes(), 1152);
  l.dtype = DType::kF8E4M3;
  EXPECT_EQ(l.token_bytes(), 640);
  EXPECT_EQ(l.block_bytes(), 64 * 640 * 61);
}

TEST(KvLayout, TheScaleOfLatentsCoversWhatTheNormCanGive) {
  EXPECT_EQ(scale_of(1), 0x1p-4f);  // sqrt(512) / 448 is 0.0505
  EXPECT_EQ(scale_of(-1), 0x1p-4f);
  EXPECT_EQ(scale_of(4), 0x1p-2f);
  EXPECT_EQ(kv_latent_scale(std::vector<float>{0.5f, -3.0f, 0.25f, 0}), 0x1p-6f);  // 6 / 448
  EXPECT_EQ(scale_of(448, 1), 1);                                                  // just covered
  EXPECT_EQ(scale_of(449, 1), 2);
  for (const float weight : {1e-6f, 0.013f, 0.7f, 5.0f, 3e4f}) {
    const float scale = scale_of(weight);
    EXPECT_TRUE(is_kv_scale(scale));
    EXPECT_LE(weight * std::sqrt(512.0f) / scale, 448.0f);
    EXPECT_GT(weight * std::sqrt(512.0f) / scale, 223.0f);
  }
}

TEST(KvLayout, NormsOfNothingAndOfNonsenseHaveAScaleToo) {
  EXPECT_EQ(scale_of(0), 1);
  EXPECT_EQ(kv_latent_scale({}), 1);
  EXPECT_EQ(scale_of(std::numeric_limits<float>::infinity()), 1);
  EXPECT_TRUE(is_kv_scale(scale_of(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(is_kv_scale(scale_of(std::numeric_limits<float>::denorm_min())));
  for (const float bad : {0.0f, -1.0f, 0.01f, 3.0f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()})
    EXPECT_FALSE(is_kv_scale(bad)) << bad;
}

}  // namespace
}  // namespace trireme
