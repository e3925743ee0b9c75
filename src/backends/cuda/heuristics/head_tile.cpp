#include "backends/cuda/heuristics/head_tile.h"

#include <algorithm>
#include <initializer_list>

namespace trireme::cuda {
namespace {

constexpr std::int64_t kTileCost = 2048;  // bytes that could pass while a tile's first multiply is waited for

std::int64_t divided(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t cost(const HeadProblem& p, const HeadTile& t, int sms) {
  const std::int64_t n = p.n / t.parts, tiles = divided(divided(p.tokens, t.rows), t.chunks);
  const std::int64_t waves = divided(std::int64_t{p.heads} * t.parts * t.chunks, sms);
  const std::int64_t rows = std::min(p.tokens, tiles * t.rows);
  return waves * (n * p.k * (p.fp8 ? 1 : 2) + rows * 2 * (p.k + n) + tiles * kTileCost);
}

}  // namespace

HeadTile choose_head_tile(const HeadProblem& p, int sms) {
  HeadTile best;
  std::int64_t least = 0;
  for (const int rows : {128, 64}) {
    const std::int64_t tiles = divided(p.tokens, rows);
    // Of the short tiles' columns a warpgroup takes every second 64.
    const int narrowest = std::min(p.n, rows == 128 ? 128 : 64);
    if (rows == 128 && tiles == 1 && p.tokens <= 64) continue;
    for (int parts = 1; p.n % parts == 0 && p.n / parts >= narrowest; parts *= 2) {
      if (p.n / parts % narrowest != 0) continue;
      const std::int64_t room = std::max<std::int64_t>(1, sms / (std::int64_t{p.heads} * parts));
      for (std::int64_t chunks = 1; chunks <= std::min(tiles, room); ++chunks) {
        const HeadTile t{rows, parts, static_cast<int>(chunks)};
        const std::int64_t c = cost(p, t, sms);
        if (best.rows != 0 && c >= least) continue;
        best = t, least = c;
      }
    }
  }
  return best;
}

}  // namespace trireme::cuda
