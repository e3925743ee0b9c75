// What this GPU can do, as yardsticks for the benchmarks. Nothing else should run.
#pragma once
#include "ops/ops.h"

namespace trireme::cuda {

// Bytes a second, read and written counted, of a large copy within the device; the median of several.
Result<double> measured_copy_bandwidth(Backend& backend);

// Bytes a second from the host to the GPU: one large pinned copy (the bus), and plain memory by the road that
// weights take.
struct UploadRates {
  double pinned = 0, weights = 0;
};
Result<UploadRates> measured_upload(Backend& backend);

}  // namespace trireme::cuda
