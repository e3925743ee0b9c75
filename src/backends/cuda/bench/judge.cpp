#include "backends/cuda/bench/judge.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace trireme::cuda {

// The whole parts first; what is left goes to the largest remainders, the larger share first among equals.
std::vector<i32> zipf_sizes(i64 parts, i64 total, u64 seed) {
  const auto n = static_cast<std::size_t>(parts);
  double weights = 0;
  for (std::size_t i = 0; i < n; ++i) weights += 1.0 / static_cast<double>(i + 1);
  std::vector<i32> sizes(n);
  std::vector<double> remainder(n);
  i64 given = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double share = static_cast<double>(total) / (static_cast<double>(i + 1) * weights);
    sizes[i] = static_cast<i32>(share);
    remainder[i] = share - std::floor(share);
    given += sizes[i];
  }
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b]; });
  for (std::size_t i = 0; given < total; ++i, ++given) ++sizes[order[i % n]];
  Rng rng(seed);
  for (std::size_t i = n; i > 1; --i) std::swap(sizes[i - 1], sizes[rng.below(i)]);
  return sizes;
}

std::vector<i32> drawn_sizes(i64 parts, i64 total) {
  const double mean = static_cast<double>(total) / static_cast<double>(parts), deviation = std::sqrt(mean);
  std::vector<i32> sizes;
  double through = 0;
  i64 given = 0;
  for (i64 i = 0; i < parts; ++i) {
    // The last of an odd number has neither more nor less, so that all add up.
    through += i + 1 == parts && parts % 2 == 1 ? mean : mean + (i % 2 == 0 ? deviation : -deviation);
    const i64 end = i + 1 == parts ? total : std::clamp<i64>(std::llround(through), given, total);
    sizes.push_back(static_cast<i32>(end - given));
    given = end;
  }
  return sizes;
}

std::vector<double> over_neighbours(std::span<const i64> rows, std::span<const double> us) {
  std::vector<double> ratios(rows.size(), 0.0);
  const auto place = [&](std::size_t i) { return std::log(static_cast<double>(rows[i])); };
  for (std::size_t i = 1; i + 1 < rows.size(); ++i) {
    const double part = (place(i) - place(i - 1)) / (place(i + 1) - place(i - 1));
    ratios[i] = us[i] / std::exp((1 - part) * std::log(us[i - 1]) + part * std::log(us[i + 1]));
  }
  return ratios;
}

std::vector<double> over_more_rows(std::span<const double> us) {
  std::vector<double> ratios(us.size(), 1.0);
  double least = us.empty() ? 0 : us.back();
  for (std::size_t i = us.size(); i-- > 0; least = std::min(least, us[i])) {
    ratios[i] = std::max(1.0, us[i] / least);
  }
  return ratios;
}

}  // namespace trireme::cuda
