#include "backends/cuda/bench/bench_kernels.h"

#include "backends/cuda/bench/session.h"

namespace trireme::cuda {

tl::unexpected<Error> nothing_matches(const KernelBenchOptions& options) {
  return invalid("no kernel or shape contains \"{}\"{}; without a filter all are listed", options.filter,
                 options.rows.empty() ? "" : " and has such rows");
}

Result<KernelBench> bench_kernels(Backend& backend, const KernelBenchOptions& options) {
  if (options.repeats < 1) return invalid("{} repeats; at least 1", options.repeats);
  ASSIGN(auto session, BenchSession::open(backend, options));
  for (const auto family :
       {bench_products, bench_attention, bench_elementwise, bench_routing, bench_sampling})
    TRY(family(*session));
  if (session->results().rows.empty()) return nothing_matches(options);
  return std::move(session->results());
}

}  // namespace trireme::cuda
