#include "tensor/dtype.h"

#include <cmath>

namespace trireme {

const char* to_string(DType t) {
  switch (t) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kF8E4M3:
      return "float8_e4m3";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
    case DType::kU8:
      return "uint8";
  }
  return "unknown";
}

u8 float_to_f8e4m3(float f) {
  const u8 sign = std::signbit(f) ? 0x80 : 0;
  if (std::isnan(f)) return static_cast<u8>(sign | 0x7f);
  const float a = std::fabs(f);
  if (a == 0) return sign;
  if (a >= 448.0f) return static_cast<u8>(sign | 0x7e);
  int exponent = 0;
  std::frexp(a, &exponent);                     // a = m * 2^exponent, m in [0.5, 1)
  const int step = std::max(exponent - 4, -9);  // of the last mantissa bit
  const int units = static_cast<int>(std::nearbyint(std::ldexp(a, -step)));  // ties to even
  if (step == -9 && units < 8) return static_cast<u8>(sign | units);         // subnormal
  // units is in [8, 16]; 16 carries into the exponent.
  return static_cast<u8>(sign | (((step + 9) << 3) + units));
}

float f16_to_float(u16 bits) {
  const u32 sign = static_cast<u32>(bits & 0x8000u) << 16;
  const u32 exponent = (bits >> 10) & 31u, mantissa = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {
    const float v = static_cast<float>(mantissa) * 0x1.0p-24f;
    return sign ? -v : v;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

}  // namespace trireme
