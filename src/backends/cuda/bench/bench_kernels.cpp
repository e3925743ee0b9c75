#include "backends/cuda/bench/bench_kernels.h"

#include "backends/cuda/bench/session.h"

namespace trireme::cuda {

Result<KernelBench> bench_kernels(Backend& backend, const KernelBenchOptions& options) {
  if (options.repeats < 1) return invalid("{} repeats; at least 1", options.repeats);
  ASSIGN(auto session, BenchSession::open(backend, options));
  if (options.started) options.started(session->results());
  for (const auto family :
       {bench_products, bench_attention, bench_elementwise, bench_routing, bench_sampling})
    TRY(family(*session));
  if (session->results().rows.empty())
    return invalid("no kernel or shape contains \"{}\"; without a filter all are listed", options.filter);
  return std::move(session->results());
}

}  // namespace trireme::cuda
