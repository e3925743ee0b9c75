// Shapes of the MLA decode kernels, the plan they share and their shared memory.
#pragma once
#include <cuda.h>

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"

namespace trireme::cuda::mla {

inline constexpr int kLatent = 512, kRope = 64, kPage = 64, kTileRows = 64;
inline constexpr int kBoxes = 9;           // boxes of 64 columns of a token: 8 of latents, 1 of rope values
inline constexpr int kBox = 64 * 64;       // elements of a box, [64 rows][64 columns], 128-byte swizzle
inline constexpr int kHalf = kLatent / 2;  // output columns of one math warpgroup
inline constexpr int kRopeBox = 8;

// A token of the FP8 cache: 512 codes, 64 BF16 rope values. A quarter is what a box of the copy engine holds
// of the codes.
inline constexpr int kFp8Token = 640, kFp8RopeByte = 512;
inline constexpr int kQuarter = 128, kQuarters = kLatent / kQuarter;

// Row tiles of a sequence are dealt in units of one or two: the CTAs of a two-tile unit read the same pages
// at the same time. A part is the share of one CTA, or of two neighbours: a run of pages of successive units.
struct Unit {
  std::int32_t seq;
  std::int32_t row;    // of q: token * heads + head, the unit's first
  std::int32_t rows;   // of the sequence, from `row` on (may exceed the unit's)
  std::int32_t pages;  // seen by the unit's last row
  std::int32_t local;  // `row` counted from the sequence's first row
  std::int32_t base;   // context before the new tokens
  std::int32_t context;
  std::int32_t token;  // q_start of the sequence
};
static_assert(sizeof(Unit) == 32);

struct Position {
  std::int32_t unit, page;
};

// What a part's loading warps begin with: nothing else of the plan and no block table is read before the
// first copies are on their way.
inline constexpr int kStartPages = 4;
struct alignas(16) Start {
  std::int32_t row;    // of q: the first unit's first
  std::int32_t page;   // of that unit: the part's first
  std::int32_t pages;  // of that unit, in this part; 0: the part has none
  std::int32_t padding;
  std::int32_t block[kStartPages];  // of the first pages
};
static_assert(sizeof(Start) == 32);

// A unit cut among several parts; pieces > 0. Its pieces lie in slots 2 * first + 1, 2 * (first + 1), 2 *
// (first + 2), ...
struct Cut {
  std::int32_t unit, first, pieces, padding;
};

// Where the arrays of a plan lie. Units are bounded by the host's numbers alone.
struct PlanLayout {
  std::int32_t parts, tiles, max_units;  // tiles: of a unit, 1 or 2

  __host__ __device__ std::size_t units_at() const { return 0; }
  __host__ __device__ std::size_t starts_at() const { return sizeof(Unit) * max_units; }
  __host__ __device__ std::size_t cuts_at() const { return starts_at() + sizeof(Start) * parts; }
  __host__ __device__ std::size_t begins_at() const { return cuts_at() + sizeof(Cut) * parts; }
  __host__ __device__ std::size_t cut_count_at() const {
    return begins_at() + sizeof(Position) * (parts + 1);
  }
  __host__ __device__ std::size_t costs_at() const { return cut_count_at() + sizeof(std::int32_t); }
  __host__ __device__ std::size_t bytes() const {
    return costs_at() + sizeof(std::int32_t) * (max_units + 1);
  }
};

// Partial results: slots of [tiles][64 rows][512] float32, then their [tiles][64] log2 sums.
struct Partials {
  float* out;
  float* lse;
};

struct Params {
  PlanLayout layout;
  const unsigned char* plan;
  const std::int32_t* block_table;
  std::int64_t block_table_stride;
  const std::uint64_t* tree_mask;
  std::uint16_t* out;  // BF16
  std::int64_t out_stride;
  float* lse;
  Partials partials;
  float scale_log2;      // scale * log2(e)
  float latent_scale;    // of the FP8 cache's codes
  const float* q_scale;  // of rows of q, with such a cache
  std::int64_t q_rows;
  int heads;
};

struct Maps {
  CUtensorMap q_latent, q_rope, cache;
};
struct Fp8Maps {
  CUtensorMap q_codes, q_rope, codes, rope;
};

struct alignas(1024) SharedMemory {
  std::uint16_t q[kBoxes][kBox];
  std::uint16_t k[2][kBoxes][kBox];
  std::uint16_t p[kBox];
  float row_max[2][kTileRows];     // running, of even and odd pages
  float row_sum[2][2][kTileRows];  // of even and odd units, by math warpgroup
  Mbarrier q_full, q_free;
  Mbarrier k_full[2][kBoxes], k_rope_free[2], k_half_free[2][2];
  Mbarrier p_ready[2], sums_ready;
};
static_assert(sizeof(SharedMemory) <= 232448);

// A probability, in units of its row's reference, may reach 2^kFp8Slack before the reference follows; e4m3
// ends at 448.
// A reference that moves goes some way beyond the score that moved it, so that it moves seldom.
inline constexpr float kFp8Slack = 2.0f, kFp8Margin = 1.0f;
// log2 of the float16 that stands for probability 1: its code is 448 / 2^kFp8Slack, and float16 has the
// exponent where e4m3 has it if it is 2^8 times smaller.
inline constexpr float kFp8One = -1.1926450779423958f;

inline constexpr int kFp8Pages = 4;       // in shared memory at a time
inline constexpr int kFp8Box = 64 * 128;  // bytes: 64 rows of 128, 128-byte swizzle

struct Fp8Page {
  unsigned char codes[kQuarters][kFp8Box];
  unsigned char rope[kFp8Box];  // BF16 [64][64]
};

// What the owner of a page tells of its probabilities.
struct alignas(16) Fp8Told {
  int moved[4];              // by its warps: whether any of their rows' references has moved
  float row_max[kTileRows];  // the reference in log2 units, over pages so far
  float rescale[kTileRows];  // what sums before this page are multiplied by
};

struct alignas(1024) Fp8SharedMemory {
  unsigned char q[kQuarters][kFp8Box];
  unsigned char q_rope[kFp8Box];
  Fp8Page pages[kFp8Pages];
  // e4m3, rows of two pages: 64 bytes of an even one, 64 of an odd.
  unsigned char prob[kFp8Pages / 2][kFp8Box];
  Fp8Told told[kFp8Pages];
  float q_scale[kTileRows];
  float row_sum[2][2][kTileRows];  // of even and odd units, by math warpgroup
  Mbarrier q_full, q_free;
  // Of the halves of the latents: a math warpgroup multiplies the values of one, so each is free on its own.
  // The first to be free, and to be copied, is that of the page's owner; rope values come with it.
  Mbarrier half_full[2][kFp8Pages], half_free[2][kFp8Pages];
  Mbarrier max_ready[2], p_ready[kFp8Pages], sums_ready;
};
static_assert(sizeof(Fp8SharedMemory) <= 232448);

}  // namespace trireme::cuda::mla
