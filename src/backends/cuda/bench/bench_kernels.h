// What each kernel of the backend takes by itself, at shapes that serving meets (bench/shapes.h), beside the
// chip's floor, cuBLASLt in the same run, and what the field's best kernel took elsewhere.
//
// L2 is flushed before each run, data is random, times are medians between two events on a stream; one kernel
// at a time, so nothing else should run on the GPU. It rests between kernels, so that what ran before does
// not slow the next one; under a sustained load clocks are lower. Not for use beside a serving engine.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace trireme::cuda {

// Dense rates of the H100/H200 (SXM) datasheet, operations a second: no version of a product is faster.
inline constexpr double kDatasheetFp8 = 1979e12, kDatasheetBf16 = 989e12;

// The best time that we know of another's kernel on the same shape, measured on an H200.
struct KernelAnchor {
  const char* who = "";
  double us = 0;  // 0: none is known
};

struct KernelTime {
  std::string kernel, shape;
  double flops = 0, bytes = 0;  // the least work: each input read once, each output written once
  bool fp8 = false;             // which of the two rates its operations have
  KernelAnchor anchor{};
  double us = 0;           // median
  double floor_us = 0;     // max(bytes / copy bandwidth, flops / datasheet rate)
  double cublaslt_us = 0;  // the same product by cuBLASLt, now; 0: not measured
  double even_us = 0;      // of a skewed load: the same rows spread evenly, now; 0: not one
};

// What every bench measures first.
struct BenchYardsticks {
  double copy_bandwidth = 0;  // bytes a second, read and written
  double event_us = 0;        // two events around nothing; contained in every time
  bool cublaslt = false;      // the library was found
};

struct KernelBench {
  BenchYardsticks yardsticks;
  std::vector<KernelTime> rows;
};

struct KernelBenchOptions {
  std::string filter;  // only kernels whose "kernel shape" contains it
  int repeats = 20;    // of each; where they are long fewer, down to a quarter
  // Of tuning and sweeps (tune.h, sweep.h): rows of each expert instead of the usual ones.
  std::vector<i64> rows{};
  // Called once the yardsticks are known, and after each row.
  std::function<void(const BenchYardsticks&)> started{};
  std::function<void(const KernelTime&)> measured{};
};

// REQUIRES: `backend` is the CUDA backend. kInvalidArgument when the filter matches nothing.
Result<KernelBench> bench_kernels(Backend& backend, const KernelBenchOptions& options);

}  // namespace trireme::cuda
