// The CPU as a backend: a fast path, and the fp32 oracle that everything else is judged by.
//
// Both need kernels' inputs on the host (host_readable). Streams of one backend share its threads; a stream
// is for one thread at a time.
#pragma once
#include <memory>
#include <optional>

#include "backends/cpu/kernels.h"
#include "ops/ops.h"

namespace trireme::cpu {

struct CpuOptions {
  int threads = 0;  // 0: one a core
  // No route whose results depend on the batch. It matters only with AMX, where large products otherwise go
  // to oneDNN.
  bool deterministic = false;
  std::optional<Isa> isa;  // default: the best this CPU has; kUnsupported if it lacks the one asked for
};

// Float32 activations and cache, one reading of the mathematics, plain loops. Weights: FP8 and F16 become
// float32 at prepare; BF16 and float32 are copied as they are.
Result<std::unique_ptr<Backend>> make_oracle_backend();

// Float32 activations in memory, BF16 at the inputs of matrix products and of attention, BF16 cache.
// Weights are kept in BF16 (FP8 and F16 converted); float32 weights stay float32 and are multiplied so.
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options = {});

}  // namespace trireme::cpu
