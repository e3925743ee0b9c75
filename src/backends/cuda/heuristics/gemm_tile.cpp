#include "backends/cuda/heuristics/gemm_tile.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace trireme::cuda {
namespace {

// Microseconds on an H200, measured: a CTA's step of 128 bytes of K, and what a tile costs beside its steps.
// shared: the part of a step that is left where a cluster shares x.
struct TileCost {
  bool fp8;
  int bm, bn;
  double step, tile, shared;
};
constexpr TileCost kCosts[] = {
    {true, 256, 128, 0.86, 3.0, 0.99},  {true, 128, 192, 0.62, 2.0, 0.99},  {true, 128, 128, 0.43, 1.1, 0.98},
    {true, 64, 256, 0.53, 1.0, 0.99},   {true, 64, 128, 0.33, 0.8, 1.0},    {true, 64, 64, 0.28, 0.6, 1.0},
    {false, 128, 256, 0.77, 3.0, 1.02}, {false, 128, 128, 0.45, 1.2, 0.85}, {false, 64, 128, 0.31, 0.8, 1.0},
};
constexpr double kLaunch = 4.0;
constexpr double kCluster = 0.8;       // a launch in clusters
constexpr double kSplit = 4.0;         // adding the sums of a cluster's CTAs
constexpr double kBytesPerUs = 4.0e6;  // of weights, from memory

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

double cost(const GemmShape& s, const GemmTile& t) {
  const int in_cluster = t.cluster * t.split;
  if (in_cluster > s.sms) return std::numeric_limits<double>::infinity();
  const auto* c = std::find_if(std::begin(kCosts), std::end(kCosts), [&](const TileCost& m) {
    return m.fp8 == s.fp8 && m.bm == t.bm && m.bn == t.bn;
  });
  if (c == std::end(kCosts)) return std::numeric_limits<double>::infinity();
  const std::int64_t tiles =
      s.groups * blocks(s.rows_per_group, t.bm) * blocks(s.n, std::int64_t{t.bn} * t.cluster);
  // Clusters of three and more do not fill every part of the chip.
  const std::int64_t clusters = s.sms / in_cluster - (in_cluster > 2 ? 1 : 0);
  const double rounds = static_cast<double>(blocks(tiles, std::max<std::int64_t>(clusters, 1)));
  const std::int64_t k_bytes = s.fp8 ? s.k : 2 * s.k;
  const double steps = static_cast<double>(blocks(blocks(k_bytes, 128), t.split));
  const double shared = t.cluster == 1 ? 1.0 : c->shared;
  const double compute = rounds * (steps * c->step * shared + c->tile);
  const double memory = static_cast<double>(s.groups * s.n) * static_cast<double>(k_bytes) / kBytesPerUs;
  // The longer of the two, and somewhat more where they are alike.
  const double both = std::pow(std::pow(compute, 4) + std::pow(memory, 4), 0.25);
  return kLaunch + both + (in_cluster > 1 ? kCluster : 0) + (t.split > 1 ? kSplit : 0);
}

}  // namespace

int choose_gemm_tile(const GemmShape& s) {
  const GemmTile* tiles = s.fp8 ? kFp8Tiles : kBf16Tiles;
  const int count = s.fp8 ? kFp8TileCount : kBf16TileCount;
  int best = 0;
  for (int i = 1; i < count; ++i) {
    if (cost(s, tiles[i]) < cost(s, tiles[best])) best = i;
  }
  return best;
}

}  // namespace trireme::cuda
