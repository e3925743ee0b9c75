// DeepSeek-V3's FP8 weights: a matrix [n, k] of e4m3 codes, and a float32 scale for each block of 128 x 128.
// Blocks at the right and lower edge may be partial; they have scales of their own. value = code * scale.
// Source: README_WEIGHTS.md of the published checkpoint, where the scales are called weight_scale_inv.
// Plain reference code: the fast paths are the backends'.
#pragma once
#include <string>

#include "base/result.h"
#include "tensor/view.h"

namespace trireme::formats {

inline constexpr i64 kFp8Block = 128;
inline constexpr float kFp8Max = 448.0f;

// [ceil(n / 128), ceil(k / 128)]
constexpr Shape fp8_scale_shape(i64 n, i64 k) {
  return Shape{ceil_div(n, kFp8Block), ceil_div(k, kFp8Block)};
}

// kDataLoss when scales of this shape do not belong to a matrix [n, k].
Status check_fp8_scale(i64 n, i64 k, const Shape& scale_shape);

// codes [n, k], scale fp8_scale_shape(n, k), out [n, k]; all dense.
void dequantise_fp8_blocks(const u8* codes, const float* scale, i64 n, i64 k, float* out);

// The scale of a block is its largest magnitude / 448; 1 for a block of zeros. REQUIRES: finite weights.
void quantise_fp8_blocks(const float* weights, i64 n, i64 k, u8* codes, float* scale);

}  // namespace trireme::formats
