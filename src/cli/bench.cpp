#include "cli/bench.h"

namespace trireme::cli {

void add_bench(CLI::App& app, Action& action) {
  app.require_subcommand(1);
  add_bench_decode(*app.add_subcommand("decode", "Time of a decode step, beside the memory bandwidth"),
                   action);
  add_bench_prefill(
      *app.add_subcommand("prefill", "Time of a prompt, beside the rate of oneDNN's matrix products"),
      action);
  add_bench_kernels(
      *app.add_subcommand("kernels", "Each kernel of a GPU, beside its floor and the field's best"), action);
  add_bench_serve(*app.add_subcommand("serve", "Load on any OpenAI-compatible server: TTFT, ITL, throughput"),
                  action);
}

}  // namespace trireme::cli
