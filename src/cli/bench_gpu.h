// `bench decode` and `bench prefill` where the model is on a GPU.
#pragma once
#include "cli/model_flags.h"

namespace trireme::cli {

struct GpuBenchFlags {
  i64 batch = 1, context = 512, steps = 64, warmup = 4;  // decode
  i64 tokens = 2048, chunk = 2048, repeats = 3;          // prefill
  bool eager = false;                                    // without graphs
  std::string json, trace;
};

Status bench_decode_gpu(const GpuBenchFlags& flags, const engine::RuntimeOptions& options,
                        engine::Runtime runtime);
Status bench_prefill_gpu(const GpuBenchFlags& flags, const engine::RuntimeOptions& options,
                         engine::Runtime runtime);

}  // namespace trireme::cli
