// What the benches of matrix products judge by. Pure: tested on a CPU.
#pragma once
#include <span>
#include <vector>

#include "base/types.h"

namespace trireme::cuda {

// A point of a sweep may take so many times what the line between its neighbours says; a skewed load so many
// times what an even one of the same total takes.
inline constexpr double kCliffBar = 1.25, kSkewBar = 1.15;

// Sizes proportional to 1, 1/2, 1/3, ... (Zipf's law with exponent 1) that add up to `total`, in an order
// that depends on `seed` alone. REQUIRES: parts >= 1, total >= 0.
std::vector<i32> zipf_sizes(i64 parts, i64 total, u64 seed);
// Sizes as drawing `total` one by one leaves them: a standard deviation more than the mean and less by turns.
std::vector<i32> drawn_sizes(i64 parts, i64 total);

// Of each point: its time over that of the straight line between its two neighbours, where both rows and time
// are logarithmic. 0 for the first and the last. REQUIRES: `rows` ascend, as many as `us`, all positive.
std::vector<double> over_neighbours(std::span<const i64> rows, std::span<const double> us);

// Of each point: its time over the shortest that any point with more rows takes, and at least 1. Above 1,
// padding would be faster. 1 for the last. REQUIRES: as above.
std::vector<double> over_more_rows(std::span<const double> us);

}  // namespace trireme::cuda
