#include "backends/cuda/heuristics/gemm_tile.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace trireme::cuda {
namespace {

// Microseconds on an H200, fitted to what `bench kernels --tune` prints: a CTA's step of 128 bytes of K, and
// what a tile costs beside its steps.
struct TileCost {
  bool fp8;
  int bm, bn;
  double step, tile;
};
constexpr TileCost kCosts[] = {
    {true, 128, 256, 0.661, 3.4}, {true, 128, 192, 0.560, 1.6}, {true, 128, 128, 0.402, 1.1},
    {true, 64, 192, 0.477, 2.3},  {true, 64, 128, 0.304, 2.2},  {true, 64, 64, 0.233, 0.1},
    {true, 32, 256, 0.519, 0.9},  {true, 32, 128, 0.153, 2.0},  {true, 32, 64, 0.177, 0.3},
    {false, 128, 256, 0.72, 2.7}, {false, 128, 128, 0.43, 1.0},
};
constexpr double kLaunch = 8.0, kThinLaunch = 7.0;  // to the first step, and from the last
// As its times look from outside.
constexpr TileCost kCublasLt = {true, 128, 128, 0.357, 1.67};
constexpr double kCublasLtLaunch = 6.3;
constexpr double kPair = 0.3, kPairStep = 0.99;  // two CTAs that share weights
constexpr double kMeet = 10.0;                   // sharing a tile's K
constexpr double kGatherCost = 2.5;               // exchanging sums within a cluster
constexpr double kWideSlice = 10.2;              // adding what one more CTA has, where tiles have 256 columns
constexpr double kThinMeet = 6.6;                // the same of the thin kernel
constexpr double kAgain = 0.36;                  // of the weights, for each more row block of thin tiles
constexpr double kBytesPerUs = 3.8e6;            // of weights, from memory

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

double d(std::int64_t x) { return static_cast<double>(x); }

// Blocks of rows of all groups: each has as many rows, or they follow Zipf's law.
std::int64_t row_blocks(const GemmShape& s, std::int64_t bm, bool even) {
  if (even) return s.groups * blocks(s.rows_per_group, bm);
  double harmonic = 0;
  for (std::int64_t g = 1; g <= s.groups; ++g) harmonic += 1 / d(g);
  const double first = d(s.groups * s.rows_per_group) / harmonic;
  std::int64_t sum = 0;
  for (std::int64_t g = 1; g <= s.groups; ++g)
    sum += static_cast<std::int64_t>(std::ceil(first / d(g) / d(bm)));
  return sum;
}

// How long the CTAs multiply.
double compute(const GemmShape& s, const TileCost& c, const GemmTile& t, std::int64_t steps,
               std::int64_t tile_rows) {
  const std::int64_t tiles = tile_rows * blocks(s.n, t.bn);
  const std::int64_t ctas = s.sms / t.cluster;
  if (t.split > 1 && t.bm < kTallRows) {  // all steps, dealt evenly
    const std::int64_t used = std::clamp<std::int64_t>(tiles * steps / kLeastThinSteps, 1, ctas);
    return d(tiles * steps) / d(used) * c.step + c.tile * std::max(1.0, d(tiles) / d(ctas)) +
           (tiles % ctas != 0 ? kThinMeet : 0);
  }
  if (t.split == kGather) {
    const int sharers = gather_ctas(tiles, static_cast<int>(steps), s.sms);
    if (sharers < 2) return std::numeric_limits<double>::infinity();
    return d(blocks(steps, sharers)) * c.step + c.tile + kGatherCost;
  }
  double rounds = d(blocks(tiles, ctas)), adding = 0;
  const std::int64_t left = tiles % ctas;
  if (t.split > 1 && left > 0) {
    const std::int64_t slices = std::min(ctas / left, steps / least_split_steps(static_cast<int>(steps)));
    if (slices > 1) {
      rounds -= 1 - 1 / d(slices);
      adding = kMeet + (t.bn > 128 ? kWideSlice * d(slices - 1) : 0);
    }
  }
  return rounds * (d(steps) * c.step * (t.cluster > 1 ? kPairStep : 1) + c.tile) + adding;
}

double cost_of_loads(const GemmShape& s, const TileCost& c, const GemmTile& t, double launch, bool even) {
  const std::int64_t k_bytes = s.fp8 ? s.k : 2 * s.k;
  const std::int64_t tile_rows = row_blocks(s, std::int64_t{t.bm} * t.cluster, even);
  const double again = t.bm < kTallRows ? kAgain * d(std::max(tile_rows - s.groups, std::int64_t{0})) : 0;
  const double memory = (d(s.groups) + again) * d(s.n) * d(k_bytes) / kBytesPerUs;
  // The longer of the two, and somewhat more where they are alike.
  const double both =
      std::cbrt(std::pow(compute(s, c, t, blocks(k_bytes, 128), tile_rows), 3) + std::pow(memory, 3));
  return launch + both + (t.cluster > 1 ? kPair : 0);
}

// Experts' rows are only known about: between even and Zipf's law.
double cost(const GemmShape& s, const TileCost& c, const GemmTile& t, double launch) {
  const double even = cost_of_loads(s, c, t, launch, true);
  return s.groups == 1 || s.even ? even : (even + cost_of_loads(s, c, t, launch, false)) / 2;
}

}  // namespace

double gemm_microseconds(const GemmShape& s, int variant) {
  const GemmTile& t = s.fp8 ? kFp8Tiles[variant] : kBf16Tiles[variant];
  const auto* c = std::find_if(std::begin(kCosts), std::end(kCosts), [&](const TileCost& m) {
    return m.fp8 == s.fp8 && m.bm == t.bm && m.bn == t.bn;
  });
  if (c == std::end(kCosts) || t.cluster > s.sms) return std::numeric_limits<double>::infinity();
  return cost(s, *c, t, t.bm < kTallRows ? kThinLaunch : kLaunch);
}

double cublaslt_microseconds(const GemmShape& s) {
  return cost(s, kCublasLt, {128, 128, 1}, kCublasLtLaunch);
}

int choose_gemm_tile(const GemmShape& s) {
  const int count = s.fp8 ? kFp8TileCount : kBf16TileCount;
  int best = 0;
  for (int i = 1; i < count; ++i) {
    if (gemm_microseconds(s, i) < gemm_microseconds(s, best)) best = i;
  }
  return best;
}

int gather_ctas(std::int64_t tiles, int k_blocks, int sms) {
  constexpr int kLeastSteps = 4, kSms = 132;
  constexpr int kAtOnce[kGatherMost + 1] = {0, 132, 66, 39, 30, 22, 17, 15, 15};  // clusters, on an H200
  for (int ctas = kGatherMost; ctas > 1; --ctas) {
    if (tiles <= std::int64_t{kAtOnce[ctas]} * sms / kSms && k_blocks >= kLeastSteps * ctas) return ctas;
  }
  return 1;
}

int least_split_steps(int k_blocks) { return std::max(4, k_blocks / 6); }

}  // namespace trireme::cuda
