#include "formats/fp8_blocks.h"

#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "formats/safetensors.h"

namespace trireme::formats {
namespace {

TEST(Fp8Blocks, EachBlockHasItsOwnScaleAndEdgeBlocksMayBePartial) {
  const i64 n = 130, k = 257;
  std::vector<u8> codes(static_cast<std::size_t>(n * k), 0x38);  // 1.0
  const std::vector<float> scale = {1, 2, 3, 4, 5, 6};           // [2, 3]
  std::vector<float> out(codes.size());
  dequantise_fp8_blocks(codes.data(), scale.data(), n, k, out.data());
  const auto at = [&](i64 r, i64 c) { return out[static_cast<std::size_t>(r * k + c)]; };
  EXPECT_EQ(at(0, 0), 1);
  EXPECT_EQ(at(127, 127), 1);
  EXPECT_EQ(at(127, 128), 2);
  EXPECT_EQ(at(127, 255), 2);
  EXPECT_EQ(at(0, 256), 3);
  EXPECT_EQ(at(128, 0), 4);
  EXPECT_EQ(at(129, 256), 6);
}

TEST(Fp8Blocks, QuantisedWeightsComeBackWithinHalfAStep) {
  const i64 n = 200, k = 150;
  Rng rng(7);
  std::vector<float> w(static_cast<std::size_t>(n * k)), back(w.size());
  for (i64 r = 0; r < n; ++r) {
    for (i64 c = 0; c < k; ++c) {
      w[static_cast<std::size_t>(r * k + c)] = static_cast<float>(rng.normal() * (r < 128 ? 1e-3 : 1e3));
    }
  }
  std::vector<u8> codes(w.size());
  std::vector<float> scale(4);
  quantise_fp8_blocks(w.data(), n, k, codes.data(), scale.data());
  dequantise_fp8_blocks(codes.data(), scale.data(), n, k, back.data());
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::size_t block = i / 150 / 128 * 2 + i % 150 / 128;
    // Half of the last mantissa bit: 2^-4 of the value, or 2^-10 of a code's unit where it is subnormal.
    EXPECT_LE(std::fabs(back[i] - w[i]), std::max(std::fabs(w[i]) * 0.0626f, scale[block] * 0x1.01p-10f))
        << i;
  }
}

TEST(Fp8Blocks, BlocksOfZerosAndOfTheSmallestNumbersStayFinite) {
  std::vector<float> w(256, 0.0f), back(256, 1.0f);
  w[128] = 1e-44f;  // in the second block; its magnitude / 448 is 0 in float32
  std::vector<u8> codes(256);
  std::vector<float> scale(2);
  quantise_fp8_blocks(w.data(), 1, 256, codes.data(), scale.data());
  dequantise_fp8_blocks(codes.data(), scale.data(), 1, 256, back.data());
  EXPECT_EQ(scale[0], 1.0f);
  EXPECT_GT(scale[1], 0.0f);
  for (const float v : back) EXPECT_EQ(v, 0.0f);
}

TEST(Fp8Blocks, ScalesOfAnotherShapeAreRefused) {
  EXPECT_TRUE(check_fp8_scale(576, 512, Shape{5, 4}));
  EXPECT_TRUE(check_fp8_scale(1, 1, Shape{1, 1}));
  for (const auto& wrong : {Shape{4, 4}, Shape{5, 5}, Shape{4, 5}, Shape{20}, Shape{5, 4, 1}, Shape{}}) {
    const auto status = check_fp8_scale(576, 512, wrong);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kDataLoss);
    EXPECT_THAT(status.error().message, ::testing::HasSubstr("[5, 4]"));
  }
}

// Both were rounded from the same float32 weights, so they differ by half a step of each.
TEST(Fp8Blocks, TheDemoModelsFp8WeightsAreItsBf16Weights) {
  const auto fp8 = Checkpoint::open(TRIREME_SOURCE_DIR "/models/trireme-demo");
  const auto bf16 = Checkpoint::open(TRIREME_SHARED_MODELS "/trireme-demo-bf16");
  if (!bf16) GTEST_SKIP() << "needs ../shared/models/trireme-demo-bf16: " << bf16.error().message;
  ASSERT_TRUE(fp8) << fp8.error().message;
  int matrices = 0;
  for (const auto& [name, codes] : fp8->tensors()) {
    if (codes.dtype != DType::kF8E4M3) continue;
    const auto* scale = fp8->find(name + "_scale_inv");
    const auto* exact = bf16->find(name);
    ASSERT_TRUE(scale && exact) << name;
    const i64 n = codes.shape[0], k = codes.shape[1];
    ASSERT_TRUE(check_fp8_scale(n, k, scale->shape)) << name;
    std::vector<float> w(static_cast<std::size_t>(n * k));
    dequantise_fp8_blocks(codes.as<u8>(), scale->as<float>(), n, k, w.data());
    for (std::size_t i = 0; i < w.size(); ++i) {
      const auto row = static_cast<i64>(i) / k, col = static_cast<i64>(i) % k;
      const float step = scale->as<float>()[row / kFp8Block * scale->shape[1] + col / kFp8Block] * 0x1p-10f;
      const auto b = static_cast<float>(exact->as<BF16>()[i]);
      ASSERT_LE(std::fabs(w[i] - b), std::fabs(b) * (0x1p-4f + 0x1p-8f) + step * 1.01f) << name << " " << i;
    }
    ++matrices;
  }
  EXPECT_GT(matrices, 100);
}

}  // namespace
}  // namespace trireme::formats
