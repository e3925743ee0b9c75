#include "backends/cuda/heuristics/swiglu_choice.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "backends/cuda/heuristics/dense_choice.h"
#include "backends/cuda/heuristics/gemm_tile.h"

namespace trireme::cuda {
namespace {

// Microseconds on an H200, measured: a CTA's step of 128 of K, and what a tile costs beside its steps.
constexpr double kFusedTile[] = {1.8, 2.3};  // of each variant
constexpr double kFusedStep[] = {0.674, 0.664};
constexpr double kHalfStep = 0.55;  // of 128 rows, where one warpgroup has none
static_assert(std::size(kFusedTile) == kSwigluVariants && std::size(kFusedStep) == kSwigluVariants);

constexpr double kLaunch = 7.0;
constexpr double kSecondLaunch = 2.5, kPassBytesPerUs = 3.5e6;  // of SwiGLU by itself
constexpr double kWeightBytesPerUs = 3.85e6;
// Below, either is launches, and a choice between them would make tokens depend on their company: only one of
// them rounds gate and up.
constexpr std::int64_t kLeastDepth = 1024;
constexpr double kClearly = 0.983;  // below it these numbers tell two costs apart

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// The longer of the two, and somewhat more where they are alike.
double both(double a, double b) { return std::pow(std::pow(a, 4) + std::pow(b, 4), 0.25); }

bool is_even(const SwigluShape& s) { return s.groups == 1 || s.even; }

// Blocks of bm rows, of all groups. Where the rows of each are only known about, the last block of each is
// half full.
double row_blocks(const SwigluShape& s, int bm) {
  const auto groups = static_cast<double>(s.groups), rows = static_cast<double>(s.rows_per_group);
  if (is_even(s)) return groups * std::ceil(rows / bm);
  return groups * std::max(1.0, rows / bm + 0.5);
}

// Tiles of which `at_once` run together, each `each` long.
struct Tiles {
  double count;
  std::int64_t at_once;
  double each;
};

// All of them read the weights once. Where how many there are is only known about, so is what the last round
// has: half of one, in the mean.
double rounds(const SwigluShape& s, const Tiles& t) {
  if (t.at_once < 1) return std::numeric_limits<double>::infinity();
  const auto at_once = static_cast<double>(t.at_once);
  const double read =
      2.0 * static_cast<double>(s.groups * s.n) * static_cast<double>(s.k) / kWeightBytesPerUs;
  if (t.count <= at_once) return both(t.each, read);
  const double round = both(t.each, read / t.count * at_once);
  const double full = std::floor(t.count / at_once), rest = t.count - full * at_once;
  if (!is_even(s)) {
    const double some = full < 3 ? full + (rest > 0 ? 1 : 0) : t.count / at_once + 0.5;
    return both(some * t.each, read);
  }
  return full * round + (rest > 0 ? both(t.each, read / t.count * rest) : 0);
}

double fused_cost(const SwigluShape& s, int variant) {
  const int pair = kSwigluPairs[variant];
  const double step = s.rows_per_group <= kSwigluRows / 2 ? kHalfStep : kFusedStep[variant];
  const auto steps = static_cast<double>(blocks(s.k, 128));
  const double tiles = row_blocks(s, kSwigluRows * pair) * static_cast<double>(blocks(s.n, 128));
  return kLaunch + rounds(s, {tiles, s.sms / pair, steps * step + kFusedTile[variant]});
}

// The product by the fastest there is.
double product_cost(const SwigluShape& s) {
  const GemmShape g = {.fp8 = true,
                       .rows_per_group = s.rows_per_group,
                       .groups = s.groups,
                       .n = 2 * s.n,
                       .k = s.k,
                       .sms = s.sms,
                       .even = s.even};
  if (s.groups == 1 && cublaslt_is_faster(s.rows_per_group, g.n, g.k, s.sms)) return cublaslt_microseconds(g);
  return gemm_microseconds(g, choose_gemm_tile(g));
}

double parts_cost(const SwigluShape& s) {
  const double product = product_cost(s);
  const double values = static_cast<double>(s.groups * s.rows_per_group) * static_cast<double>(s.n);
  return product + kSecondLaunch + 5 * values / kPassBytesPerUs;  // gate and up in, codes out
}

}  // namespace

int choose_swiglu_tile(const SwigluShape& s) {
  int best = 0;
  for (int i = 1; i < kSwigluVariants; ++i) {
    if (fused_cost(s, i) < fused_cost(s, best)) best = i;
  }
  return best;
}

bool swiglu_fused_is_faster(const SwigluShape& s) {
  return s.k >= kLeastDepth && fused_cost(s, choose_swiglu_tile(s)) < kClearly * parts_cost(s);
}

}  // namespace trireme::cuda
