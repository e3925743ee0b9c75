#include "backends/cuda/heuristics/router_tile.h"

namespace trireme::cuda {
namespace {

constexpr std::int64_t kRows = 64, kMostRows = 512, kMostColumns = 16, kLong = 2048;
// Multiprocessors for each cluster that runs at once: some groups of them have places to spare that hold
// none.
constexpr int kSmsOfCluster = 10;

}  // namespace

int choose_router_columns(std::int64_t rows, int n, int k, int sms) {
  int best = 0;
  std::int64_t least = 0;
  for (const int columns : kRouterColumns) {
    const std::int64_t tiles = (rows + kRows - 1) / kRows * ((n + columns - 1) / columns);
    const std::int64_t at_once = sms >= kSmsOfCluster ? sms / kSmsOfCluster : 1;
    const std::int64_t waves = (tiles + at_once - 1) / at_once;
    const std::int64_t read = waves * (kRows + columns) * k;
    if (best != 0 && read > least) continue;
    best = columns, least = read;
  }
  return best;
}

bool router_gemm_is_faster(std::int64_t rows, std::int64_t n, std::int64_t k) {
  return rows <= kMostRows && n <= kMostColumns && k >= kLong;
}

}  // namespace trireme::cuda
