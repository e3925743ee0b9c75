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
    {true, 128, 256, 0.669, 1.90}, {true, 128, 192, 0.569, 0.52}, {true, 128, 128, 0.426, 0.32},
    {true, 64, 192, 0.498, 2.61},  {true, 64, 128, 0.401, 1.17},  {true, 64, 64, 0.207, 0.29},
    {true, 32, 256, 0.610, 0.02},  {true, 32, 128, 0.221, 1.02},  {true, 32, 64, 0.124, 1.37},
    {false, 128, 256, 0.72, 2.7},  {false, 128, 128, 0.43, 1.0},
};
constexpr double kLaunch = 8.0, kThinLaunch = 7.0;  // to the first step, and from the last
// More where tiles have 256 columns: their stages are larger, and so is their code.
constexpr double kWideStart = 4.0;
// As its times look from outside.
constexpr TileCost kCublasLt = {true, 128, 128, 0.367, 0.97};
constexpr double kCublasLtLaunch = 6.3;
constexpr double kPair = 1.27, kPairStep = 0.98;  // two CTAs that share weights
constexpr double kGatherCost = 3.78;              // exchanging sums within a cluster
constexpr double kMeet = 6.95;                    // the same in global memory
constexpr double kWideSlice = 12.8;     // adding what one more CTA has, where tiles have 256 columns
constexpr double kThinMeet = 5.15;      // as kMeet, of the thin kernel
constexpr double kAgain = 0.367;        // of the weights, for each more row block of thin tiles
constexpr double kBytesPerUs = 3.77e6;  // of weights, from memory

constexpr std::int64_t kSmallRows = 64;  // that small products are taken to have

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

double d(std::int64_t x) { return static_cast<double>(x); }

// How rows lie over groups: as many in each; a standard deviation of drawing them more and less by turns; by
// Zipf's law.
enum class Loads : std::uint8_t { kEven, kDrawn, kZipf };

// Blocks of rows of all groups.
double row_blocks(const GemmShape& s, std::int64_t bm, Loads loads) {
  const double rows = d(s.rows_per_group), block = d(bm);
  if (loads == Loads::kEven) return d(s.groups) * std::ceil(rows / block);
  if (loads == Loads::kDrawn) {
    const double more = std::ceil((rows + std::sqrt(rows)) / block);
    return d(s.groups) * (more + std::ceil(std::max(1.0, rows - std::sqrt(rows)) / block)) / 2;
  }
  double harmonic = 0, sum = 0;
  for (std::int64_t g = 1; g <= s.groups; ++g) harmonic += 1 / d(g);
  const double first = d(s.groups) * rows / harmonic;
  for (std::int64_t g = 1; g <= s.groups; ++g) sum += std::ceil(first / d(g) / block);
  return sum;
}

// How long the CTAs multiply.
double compute(const GemmShape& s, const TileCost& c, const GemmTile& t, std::int64_t steps,
               double tile_rows) {
  const std::int64_t tiles = std::llround(tile_rows * d(blocks(s.n, t.bn)));
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

double cost_of_loads(const GemmShape& s, const TileCost& c, const GemmTile& t, double launch, Loads loads) {
  const std::int64_t k_bytes = s.fp8 ? s.k : 2 * s.k;
  const double tile_rows = row_blocks(s, std::int64_t{t.bm} * t.cluster, loads);
  const double again = t.bm < kTallRows ? kAgain * std::max(tile_rows - d(s.groups), 0.0) : 0;
  const double memory = (d(s.groups) + again) * d(s.n) * d(k_bytes) / kBytesPerUs;
  // The longer of the two, and somewhat more where they are alike.
  const double both =
      std::cbrt(std::pow(compute(s, c, t, blocks(k_bytes, 128), tile_rows), 3) + std::pow(memory, 3));
  return launch + both + (t.cluster > 1 ? kPair : 0);
}

// Experts' rows are only known about: between what drawing them leaves and Zipf's law.
double cost(const GemmShape& s, const TileCost& c, const GemmTile& t, double launch) {
  if (s.groups == 1 || s.even) return cost_of_loads(s, c, t, launch, Loads::kEven);
  return (cost_of_loads(s, c, t, launch, Loads::kDrawn) + cost_of_loads(s, c, t, launch, Loads::kZipf)) / 2;
}

}  // namespace

bool is_small_product(std::int64_t n, std::int64_t k) { return n * k <= std::int64_t{1} << 20; }

double gemm_microseconds(const GemmShape& s, int variant) {
  const GemmTile& t = s.fp8 ? kFp8Tiles[variant] : kBf16Tiles[variant];
  const auto* c = std::find_if(std::begin(kCosts), std::end(kCosts), [&](const TileCost& m) {
    return m.fp8 == s.fp8 && m.bm == t.bm && m.bn == t.bn;
  });
  if (c == std::end(kCosts) || t.cluster > s.sms) return std::numeric_limits<double>::infinity();
  const double wide = s.fp8 && t.bn > 192 ? kWideStart : 0;
  return cost(s, *c, t, t.bm < kTallRows ? kThinLaunch : kLaunch + wide);
}

double cublaslt_microseconds(const GemmShape& s) {
  return cost(s, kCublasLt, {128, 128, 1}, kCublasLtLaunch);
}

int choose_gemm_tile(const GemmShape& of) {
  GemmShape s = of;
  if (is_small_product(s.n, s.k)) s.rows_per_group = kSmallRows;
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
