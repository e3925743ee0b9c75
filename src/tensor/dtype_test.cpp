#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace trireme {
namespace {

TEST(F8E4M3, EveryCodeSurvivesTheRoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const float v = f8e4m3_to_float(static_cast<u8>(code));
    if (std::isnan(v)) {
      EXPECT_TRUE(code == 0x7f || code == 0xff);
    } else {
      EXPECT_EQ(float_to_f8e4m3(v), code) << v;
    }
  }
  EXPECT_EQ(f8e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(f8e4m3_to_float(0x01), 0x1.0p-9f);
  EXPECT_EQ(f8e4m3_to_float(0x38), 1.0f);
}

TEST(F8E4M3, RoundsToTheNearestCodeTiesToEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float a = f8e4m3_to_float(static_cast<u8>(code)), b = f8e4m3_to_float(static_cast<u8>(code + 1));
    const float middle = (a + b) / 2;
    EXPECT_EQ(float_to_f8e4m3(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(float_to_f8e4m3(std::nextafter(middle, 1e9f)), code + 1);
    EXPECT_EQ(float_to_f8e4m3(middle), code % 2 == 0 ? code : code + 1);
  }
  EXPECT_EQ(float_to_f8e4m3(1e9f), 0x7e);
  EXPECT_EQ(float_to_f8e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
}

TEST(BF16, RoundsTiesToEvenAndKeepsNaN) {
  EXPECT_EQ(BF16(1.0f).bits, 0x3f80);
  EXPECT_EQ(BF16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);
  EXPECT_EQ(BF16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);
  EXPECT_TRUE(std::isnan(static_cast<float>(BF16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(F16, KnownValues) {
  EXPECT_EQ(f16_to_float(0x3c00), 1.0f);
  EXPECT_EQ(f16_to_float(0x0001), 0x1.0p-24f);
  EXPECT_EQ(f16_to_float(0xfbff), -65504.0f);
}

}  // namespace
}  // namespace trireme
