#include "backends/cuda/heuristics/gemm_tile.h"

#include <algorithm>
#include <limits>

namespace trireme::cuda {
namespace {

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Microseconds-like cost of a variant: rounds of CTAs, each paying for its multiplies or for the bytes it
// loads.
double cost(const GemmShape& s, const GemmTile& t) {
  if (t.cluster * t.split > s.sms) return std::numeric_limits<double>::infinity();
  const double tiles =
      static_cast<double>(s.groups * blocks(s.rows_per_group, t.bm) * blocks(s.n, t.bn * t.cluster));
  const double clusters = std::max(1.0, static_cast<double>(s.sms / (t.cluster * t.split)));
  const double full = tiles / clusters;
  const double rounds =
      std::max(1.0, full < 4 ? static_cast<double>(blocks(static_cast<std::int64_t>(tiles),
                                                          static_cast<std::int64_t>(clusters)))
                             : full + 0.5);
  const double k_blocks = static_cast<double>(blocks(s.fp8 ? s.k : 2 * s.k, 128));
  // Cycles of one step of 128 bytes of K: multiplying, or loading at what a CTA gets of L2.
  const double multiply = t.bm * t.bn / 32.0;
  const double load = (static_cast<double>(t.bm) / t.cluster + t.bn) * 128.0 / 40.0;
  return rounds * (k_blocks / t.split * std::max(multiply, load) + 1500.0 + (t.split > 1 ? 2000.0 : 0.0));
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
