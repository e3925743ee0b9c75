// Each matrix of DeepSeek-V3 over the numbers of rows that serving meets, by the road that serving takes.
#pragma once
#include "backends/cuda/bench/bench_kernels.h"

namespace trireme::cuda {

struct SweepPoint {
  i64 rows = 0;  // of each expert, where there are several
  double us = 0, floor_us = 0, flops = 0, bytes = 0;
  double over_neighbours = 0;  // times the line between the two beside it (judge.h); 0 at both ends
  double over_more_rows = 1;   // times the fastest point that has more rows
};

struct SweepCurve {
  std::string group, name;  // "attention", "q_b"; "experts down", "down, 4 experts"
  bool fp8 = true;
  i64 experts = 0, n = 0, k = 0;  // experts 0: one matrix for all rows
  std::vector<SweepPoint> points;

  const SweepPoint* worst() const;      // the one highest over its neighbours; null where no point has two
  const SweepPoint* worst_few() const;  // the one highest over those with more rows; null where there is none
};

struct SweepBench {
  BenchYardsticks yardsticks;
  std::vector<SweepCurve> curves;
};

// options.measured is not called; `measured` is. REQUIRES: as bench_kernels.
Result<SweepBench> sweep_kernels(Backend& backend, const KernelBenchOptions& options,
                                 const std::function<void(const SweepCurve&)>& measured);

}  // namespace trireme::cuda
