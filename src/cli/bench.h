// The benches: one function a bench, gathered under `trireme bench`.
#pragma once
#include "cli/command.h"

namespace trireme::cli {

void add_bench_decode(CLI::App&, Action&);
void add_bench_prefill(CLI::App&, Action&);
void add_bench_kernels(CLI::App&, Action&);
void add_bench_serve(CLI::App&, Action&);

}  // namespace trireme::cli
