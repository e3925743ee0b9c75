// NVIDIA Hopper GPUs as a backend: BF16 activations, FP8 or BF16 weights, BF16 or FP8 cache.
#pragma once
#include <memory>

#include "ops/ops.h"

namespace trireme::cuda {

struct CudaOptions {
  // FP8 checkpoints are multiplied as FP8 with activations quantised to FP8 (DeepSeek-V3's recipe). Without
  // it their weights are taken out to BF16 while loading, and twice as large.
  bool fp8_activations = true;
  // Results that do not depend on the batch: only kernels whose rows are computed alike whatever is beside
  // them.
  bool deterministic = false;
};

// kUnsupported when there is no GPU that the kernels run on; the message says what is missing.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options = {});

// Whether there is a GPU that the kernels run on. Starts nothing on it.
bool cuda_present();

// How this backend keeps a matrix; the same wherever it is asked, so that a ledger can be made without a GPU.
i64 prepared_bytes(i64 n, i64 k, DType stored, bool fp8_activations);

}  // namespace trireme::cuda
