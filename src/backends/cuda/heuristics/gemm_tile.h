// Which tile a GEMM runs with. Pure: no CUDA here, tested on a CPU.
#pragma once
#include <cstdint>

namespace trireme::cuda {

// A CTA computes bm rows by bn columns of the output; `cluster` CTAs below each other share the weights that
// they load. split 2: where tiles are few, CTAs share their K. kGather: a cluster shares the K of each, and
// all tiles run at once. Of fewer than 128 rows: the thin kernel (sm90/gemm/thin.h).
struct GemmTile {
  int bm, bn, cluster, split = 1;
};
inline constexpr int kTallRows = 128;  // of all other tiles
inline constexpr int kGather = 3;      // of `split`

// The variants of each kind; an index into these is a `variant`. All tall ones with split 1 add the products
// of a row in the same order, so a row's result does not depend on which of those ran.
inline constexpr GemmTile kFp8Tiles[] = {
    {128, 128, 1},   {128, 128, 1, 2},       {128, 256, 1},  {128, 256, 1, 2}, {128, 256, 2},
    {128, 192, 1},   {128, 192, 2},          {32, 64, 1},    {32, 64, 1, 2},   {32, 128, 1},
    {32, 128, 1, 2}, {32, 256, 1},           {64, 64, 1, 2}, {64, 128, 1},     {64, 128, 1, 2},
    {64, 192, 1},    {128, 128, 1, kGather},
};
inline constexpr GemmTile kBf16Tiles[] = {{128, 128, 1}, {128, 256, 1}, {128, 256, 2}};
inline constexpr int kFp8TileCount = sizeof(kFp8Tiles) / sizeof(kFp8Tiles[0]);
inline constexpr int kBf16TileCount = sizeof(kBf16Tiles) / sizeof(kBf16Tiles[0]);

struct GemmShape {
  bool fp8 = true;
  std::int64_t rows_per_group = 0;  // expected: of experts a mean, about which their loads lie
  std::int64_t groups = 1;          // experts, 1 for a dense product
  std::int64_t n = 0, k = 0;
  int sms = 132;
  bool even = false;  // every group has just so many rows
};

// A product with so few weights is a launch whatever its tile. It runs one tile, and never cuBLASLt, however
// many rows there are: a choice would only make tokens depend on their company.
bool is_small_product(std::int64_t n, std::int64_t k);

// REQUIRES: all of the shape positive. A variant of its kind.
int choose_gemm_tile(const GemmShape&);

// What a variant is expected to take on an H200, and cuBLASLt with an FP8 shape.
double gemm_microseconds(const GemmShape&, int variant);
double cublaslt_microseconds(const GemmShape&);

// How many CTAs share each of so many tiles, of k_blocks steps of K each, in clusters that all run at once,
// kGatherMost at most; 1: there is no room for that.
inline constexpr int kGatherMost = 8;
int gather_ctas(std::int64_t tiles, int k_blocks, int sms);

// Where CTAs share a tile of k_blocks steps of K, how many each takes at least.
int least_split_steps(int k_blocks);
inline constexpr int kLeastThinSteps = 4;  // the same of the thin kernel

}  // namespace trireme::cuda
