// How large the products of MLA's latents with kv_b_proj, which are keys and values, can become.
#pragma once
#include "formats/kv_layout.h"

namespace trireme {

// What the product of a latent with a row never exceeds: before its weights, what the norm gives is at most
// sqrt(n) long, and Cauchy and Schwarz do the rest. REQUIRES: row has as many values as norm.
inline float kv_product_bound(std::span<const float> row, std::span<const float> norm) {
  // Several sums, so that they can be made side by side.
  constexpr std::size_t kSums = 16;
  const std::size_t n = norm.size(), whole = n / kSums * kSums;
  float sums[kSums] = {};
  const auto add = [&](std::size_t at, std::size_t i) {
    const float x = row[at + i] * norm[at + i];
    sums[i] += x * x;
  };
  for (std::size_t at = 0; at < whole; at += kSums)
    for (std::size_t i = 0; i < kSums; ++i) add(at, i);
  for (std::size_t i = 0; i < n - whole; ++i) add(whole, i);
  float length = 0;
  for (const float x : sums) length += x;
  return std::sqrt(static_cast<float>(n) * length);
}

// What e4m3 codes of a layer's products are multiplied by: a power of two, from the bounds of the rows and a
// quarter more. Latents were rounded on the way, to an FP8 cache and to FP8 activations, by up to 1/16 each.
inline float kv_product_scale(std::span<const float> bounds) {
  float largest = 0;
  for (const float b : bounds) {
    if (!std::isfinite(b)) return 1;
    largest = std::max(largest, b);
  }
  return e4m3_scale_for(1.25f * largest);
}

}  // namespace trireme
