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
    {true, 128, 256, 0.79, 1.0, 0.97},  {true, 128, 192, 0.66, 0.9, 0.98}, {true, 128, 128, 0.47, 0.7, 1.0},
    {false, 128, 256, 0.77, 1.0, 0.97}, {false, 128, 128, 0.45, 0.7, 1.0},
};
constexpr double kLaunch = 5.0;
constexpr double kCluster = 0.8;              // a launch in clusters
constexpr double kSplit = 2.0, kSlice = 3.0;  // meeting of CTAs that share; adding 256 columns of another
constexpr double kBytesPerUs = 4.0e6;         // of weights, from memory

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

double cost(const GemmShape& s, const GemmTile& t) {
  if (t.cluster > s.sms) return std::numeric_limits<double>::infinity();
  const auto* c = std::find_if(std::begin(kCosts), std::end(kCosts), [&](const TileCost& m) {
    return m.fp8 == s.fp8 && m.bm == t.bm && m.bn == t.bn;
  });
  if (c == std::end(kCosts)) return std::numeric_limits<double>::infinity();
  const std::int64_t tiles =
      s.groups * blocks(s.rows_per_group, std::int64_t{t.bm} * t.cluster) * blocks(s.n, t.bn);
  const std::int64_t ctas = s.sms / t.cluster, k_bytes = s.fp8 ? s.k : 2 * s.k, steps = blocks(k_bytes, 128);
  const double step = c->step * (t.cluster == 1 ? 1.0 : c->shared);
  double rounds = static_cast<double>(blocks(tiles, ctas)), adding = 0;
  const std::int64_t left = tiles % ctas;
  if (t.split > 1 && left > 0) {
    const std::int64_t slices =
        std::min(ctas / left, steps / std::int64_t{least_split_steps(static_cast<int>(steps))});
    if (slices > 1) {
      rounds -= 1 - 1 / static_cast<double>(slices);
      adding = kSplit + kSlice * static_cast<double>(slices - 1) * t.bn / 256;
    }
  }
  const double compute = rounds * (static_cast<double>(steps) * step + c->tile) + adding;
  const double memory = static_cast<double>(s.groups * s.n) * static_cast<double>(k_bytes) / kBytesPerUs;
  // The longer of the two, and somewhat more where they are alike.
  const double both = std::pow(std::pow(compute, 4) + std::pow(memory, 4), 0.25);
  return kLaunch + both + (t.cluster > 1 ? kCluster : 0);
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

int least_split_steps(int k_blocks) { return std::max(4, k_blocks / 6); }

}  // namespace trireme::cuda
