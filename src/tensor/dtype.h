// Element types of tensors, as stored in memory and in files.
#pragma once
#include <bit>
#include <cstring>
#include <string_view>

#include "base/types.h"

namespace trireme {

enum class DType : u8 { kF32, kBF16, kF16, kF8E4M3, kI32, kI64, kU8 };

constexpr i64 size_of(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kF8E4M3:
    case DType::kU8:
      return 1;
  }
  return 0;
}
const char* to_string(DType t);

// bfloat16: the upper half of a float32. Rounds to nearest, ties to even; NaN stays NaN.
struct BF16 {
  u16 bits = 0;
  BF16() = default;
  constexpr explicit BF16(float f) : bits(round(f)) {}
  constexpr explicit operator float() const { return std::bit_cast<float>(static_cast<u32>(bits) << 16); }

 private:
  static constexpr u16 round(float f) {
    const u32 u = std::bit_cast<u32>(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<u16>((u >> 16) | 0x40u);
    return static_cast<u16>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(BF16) == 2);

// FP8 e4m3fn (OCP): 4 exponent bits, bias 7, no infinity; codes 0x7f and 0xff are NaN.
constexpr float f8e4m3_to_float(u8 code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  float v = 0;
  if (exponent == 15 && mantissa == 7) {
    v = std::bit_cast<float>(0x7fc00000u);
  } else if (exponent == 0) {
    v = static_cast<float>(mantissa) * 0x1.0p-9f;
  } else {
    v = std::bit_cast<float>(static_cast<u32>(exponent + 120) << 23 | static_cast<u32>(mantissa) << 20);
  }
  return (code & 0x80) ? -v : v;
}
// Rounds to nearest, ties to even; saturates at 448 as FP8 training and serving do.
u8 float_to_f8e4m3(float f);
float f16_to_float(u16 bits);

}  // namespace trireme
