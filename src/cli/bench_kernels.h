// `bench kernels`: what its flags ask, and how what it measured is written.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/types.h"

namespace trireme::cli {

struct KernelFlags {
  std::string filter{}, json{};
  int repeats = 20;
  bool tune = false, sweep = false;
  std::vector<i64> rows{};  // of --tune and --sweep
};

// Refuses what makes no sense, before a GPU is looked for.
Status judged(const KernelFlags& flags);

// On the GPU, with the tables printed as they come. Returns what --json writes.
Result<Json> measure_kernels(const KernelFlags& flags);

}  // namespace trireme::cli
