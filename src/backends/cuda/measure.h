// What this GPU can do, as yardsticks for the benchmarks. Nothing else should run.
#pragma once
#include "ops/ops.h"

namespace trireme::cuda {

// Bytes a second, read and written counted, of a large copy within the device; the median of several.
Result<double> measured_copy_bandwidth(Backend& backend);

}  // namespace trireme::cuda
