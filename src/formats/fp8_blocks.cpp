#include "formats/fp8_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace trireme::formats {
namespace {

float block_scale(const float* weights, i64 k, i64 r0, i64 r1, i64 c0, i64 c1) {
  float amax = 0;
  for (i64 r = r0; r < r1; ++r) {
    for (i64 c = c0; c < c1; ++c) amax = std::max(amax, std::fabs(weights[r * k + c]));
  }
  // A quotient that underflows to zero would turn the block's zeros into 0 / 0.
  return amax > 0 ? std::max(amax / kFp8Max, std::numeric_limits<float>::min()) : 1.0f;
}

}  // namespace

Status check_fp8_scale(i64 n, i64 k, const Shape& scale_shape) {
  if (scale_shape == fp8_scale_shape(n, k)) return {};
  return fail(
      ErrorCode::kDataLoss, "an FP8 weight of {} needs scales of {}, one for each {} x {} block; it has {}",
      to_string(Shape{n, k}), to_string(fp8_scale_shape(n, k)), kFp8Block, kFp8Block, to_string(scale_shape));
}

void dequantise_fp8_blocks(const u8* codes, const float* scale, i64 n, i64 k, float* out) {
  const i64 blocks = ceil_div(k, kFp8Block);
  for (i64 r = 0; r < n; ++r) {
    const float* row_scale = scale + r / kFp8Block * blocks;
    for (i64 c = 0; c < k; ++c) out[r * k + c] = f8e4m3_to_float(codes[r * k + c]) * row_scale[c / kFp8Block];
  }
}

void quantise_fp8_blocks(const float* weights, i64 n, i64 k, u8* codes, float* scale) {
  for (i64 r0 = 0; r0 < n; r0 += kFp8Block) {
    for (i64 c0 = 0; c0 < k; c0 += kFp8Block) {
      const i64 r1 = std::min(n, r0 + kFp8Block), c1 = std::min(k, c0 + kFp8Block);
      const float s = block_scale(weights, k, r0, r1, c0, c1);
      *scale++ = s;
      for (i64 r = r0; r < r1; ++r) {
        for (i64 c = c0; c < c1; ++c) codes[r * k + c] = float_to_f8e4m3(weights[r * k + c] / s);
      }
    }
  }
}

}  // namespace trireme::formats
