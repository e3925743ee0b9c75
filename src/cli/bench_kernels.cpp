// `trireme bench kernels`: every kernel of the GPU by itself, beside its floor and the field's best.
#include "cli/bench_kernels.h"

#include "cli/bench.h"
#include "cli/bench_tools.h"

namespace trireme::cli {
namespace {

constexpr i64 kMostRows = 65536;  // what a GPU has memory for, of several experts

Status run(const KernelFlags& f) {
  TRY(judged(f));
  ASSIGN(const Json result, measure_kernels(f));
  return write_json(f.json, result);
}

}  // namespace

Status judged(const KernelFlags& f) {
  if (f.repeats < 1) return invalid("--repeats {}: at least 1", f.repeats);
  if (f.tune && f.sweep) return invalid("--tune and --sweep are two runs: ask for one of them");
  if (!f.rows.empty() && !f.tune && !f.sweep)
    return invalid("--rows names the rows of --tune and --sweep; the table of kernels has its own");
  for (const i64 rows : f.rows)
    if (rows < 1 || rows > kMostRows) return invalid("--rows {}: from 1 to {}", rows, kMostRows);
  return {};
}

#ifndef TRIREME_CUDA
Result<Json> measure_kernels(const KernelFlags&) {
  return fail(ErrorCode::kUnsupported,
              "bench kernels measures the GPU's kernels: this build has no CUDA backend; build it with "
              "tools/build_cuda");
}
#endif

void add_bench_kernels(CLI::App& app, Action& action) {
  auto flags = std::make_shared<KernelFlags>();
  app.add_flag("--tune", flags->tune,
               "Every variant of the matrix kernels on every shape, beside the one that is chosen");
  app.add_flag("--sweep", flags->sweep,
               "DeepSeek-V3's projections from 1 to 8192 rows, as serving multiplies them");
  app.add_option("--rows", flags->rows, "With --tune or --sweep: only these, as 64,128,256")->delimiter(',');
  app.add_option("--filter", flags->filter,
                 "Only kernels whose name and shape contain this, as they are printed");
  app.add_option("--repeats", flags->repeats,
                 "Runs of each to time; where they are long fewer, down to a quarter")
      ->capture_default_str();
  app.add_option("--json", flags->json, "Also write the result here");
  app.callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace trireme::cli
