// Sizes of one kernel and its shared memory.
#pragma once
#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"

namespace trireme::cuda::head {

// HeadCodes, with rope in elements.
struct Codes {
  unsigned char* rows;
  std::int64_t row_bytes;
  float* scale;
  const float* bound;
  const std::uint16_t* rope;
  std::int64_t rope_head_stride, rope_token_stride;
  float latent_scale;
};

struct Params {
  int tokens, heads, n;
  int columns;  // of a CTA
  const float* w_scale;
  int w_scale_stride;
  Codes codes;
};

// kUp: into the latent (k 128, n up to 512), else out of it (k 512, n 128).
template <bool kFp8Of, bool kUpOf, int kRowsOf, bool kCodesOf = false>
struct Config {
  static constexpr bool kFp8 = kFp8Of, kUp = kUpOf, kCodes = kCodesOf;
  static constexpr int kRows = kRowsOf;  // tokens in a tile
  static constexpr int kK = kUp ? 128 : 512;
  // Columns that a warpgroup multiplies at a time. Tall tiles: each warpgroup has its 64 rows of all columns;
  // short ones: both have all rows, and every second piece.
  static constexpr int kPieceN = kRows == 128 ? 128 : 64;
  static constexpr int kMostPieces = (kUp ? 512 : 128) / kPieceN;
  static constexpr int kMathWarps = 8, kThreads = 32 * (kMathWarps + 1);
  static constexpr int kWBytes = 512 * 128 * (kFp8 ? 1 : 2);
  static constexpr int kWColumnBytes = 128 * (kFp8 ? 1 : 2);      // into the latent: of one column
  static constexpr int kWSteps = kUp ? 1 : (kFp8 ? 4 : 8);        // boxes along k, 128 bytes wide
  static constexpr int kWBarriers = kUp ? kMostPieces : kWSteps;  // in the order of their use
  static constexpr int kXBytes = kRows * 128;                     // 64 values of each token
  static constexpr int kXSteps = kK / 64;                         // of a tile
  static constexpr int kStages = (kFp8 ? 131072 : 65536) / kXBytes;
  static constexpr int kOutBytes = 16 * 128;  // 64 columns of a warp's rows; two for each warp
  static constexpr int kSmemBytes =
      1024 + kWBytes + kStages * kXBytes + kMathWarps * 2 * kOutBytes + (kWBarriers + 2 * kStages) * 8;
  static_assert(kSmemBytes <= 227 * 1024 && kStages % 2 == 0);
};

template <class C>
struct Smem {
  unsigned char* w;    // see Config; swizzled
  unsigned char* x;    // [stages][rows][128 bytes], swizzled
  unsigned char* out;  // [warps][2][16][128 bytes], swizzled
  Mbarrier *w_full, *full, *empty;

  __device__ explicit Smem(unsigned char* raw) {
    w = raw + (1024 - smem_address(raw) % 1024) % 1024;
    x = w + C::kWBytes;
    out = x + C::kStages * C::kXBytes;
    w_full = reinterpret_cast<Mbarrier*>(out + C::kMathWarps * 2 * C::kOutBytes);
    full = w_full + C::kWBarriers;
    empty = full + C::kStages;
  }
};

template <int kStages>
struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace trireme::cuda::head
