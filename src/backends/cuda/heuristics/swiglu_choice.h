// Whether SwiGLU goes into its product's kernel, and with which tile. Pure: no CUDA here, tested on a CPU.
#pragma once
#include <cstdint>

namespace trireme::cuda {

// A tile is kSwigluRows rows by 128 columns of the output. Of each variant how many CTAs, one below the
// other, share the weights that they load. All add the products of a row in the same order, so that its
// result has the same bits.
inline constexpr int kSwigluRows = 128;
inline constexpr int kSwigluPairs[] = {1, 2};
inline constexpr int kSwigluVariants = sizeof(kSwigluPairs) / sizeof(kSwigluPairs[0]);

struct SwigluShape {
  std::int64_t rows_per_group = 0;  // expected; of experts a mean, about which their loads lie
  std::int64_t groups = 1;          // experts, 1 for a dense product
  std::int64_t n = 0, k = 0;        // n: of the output
  bool even = false;                // every group has just so many rows
  int sms = 132;
};

// REQUIRES: all of the shape positive. The fastest variant.
int choose_swiglu_tile(const SwigluShape&);

// REQUIRES: as above. Whether that variant is faster than the product and SwiGLU behind it.
bool swiglu_fused_is_faster(const SwigluShape&);

}  // namespace trireme::cuda
