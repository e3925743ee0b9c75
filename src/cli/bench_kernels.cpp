// `trireme bench kernels`: every kernel of the GPU by itself, beside its floor and the field's best.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>

#include "base/json.h"
#include "cli/bench.h"
#ifdef TRIREME_CUDA
#include "backends/cuda/bench/bench_kernels.h"
#include "backends/cuda/cuda_backend.h"
#endif

namespace trireme::cli {
namespace {

constexpr const char* kWhat = "bench kernels measures the GPU's kernels";

struct KernelFlags {
  std::string filter, json;
  int repeats = 20;
};

#ifdef TRIREME_CUDA

double per_us(double amount, double us, double unit) { return amount / us * 1e6 / unit; }

// A column of `width`, with a dash where there is nothing to say.
std::string number(double value, int width, int decimals) {
  return value > 0 ? fmt::format("{:>{}.{}f}", value, width, decimals) : fmt::format("{:>{}}", "-", width);
}
std::string percent(double share, int width) {
  return share > 0 ? fmt::format("{:>{}.0f}%", 100 * share, width - 1) : fmt::format("{:>{}}", "-", width);
}

void print_header(const Chip& chip, const cuda::KernelBench& b) {
  fmt::print("{}, {} SMs\n", chip.name, chip.units);
  fmt::print(
      "copy bandwidth {:.2f} TB/s (read + write, measured now); peaks {:.0f} / {:.0f} TFLOPS FP8 / BF16 "
      "(datasheet)\n",
      b.copy_bandwidth / 1e12, cuda::kDatasheetFp8 / 1e12, cuda::kDatasheetBf16 / 1e12);
  fmt::print("medians, L2 flushed before each run, random data; {:.1f} us of each is the clock's own\n",
             b.event_us);
  fmt::print(
      "cuBLASLt: {}; anchor: the field's best on an H200, measured elsewhere; above 100% is faster\n\n",
      b.cublaslt ? "the same product, measured now" : "the library is not on this machine");
  fmt::print("{:<26}{:<40}{:>9}{:>9}{:>7}{:>9}{:>10}{:>8}{:>10}{:>8}  {}\n", "kernel", "shape", "us",
             "TFLOPS", "TB/s", "of floor", "cuBLASLt", "of it", "anchor", "of it", "whose");
}

void print_row(const cuda::KernelTime& r) {
  fmt::print("{:<26}{:<40}{:>9.1f}{}{}{}{}{}{}{}  {}\n", r.kernel, r.shape, r.us,
             number(per_us(r.flops, r.us, 1e12), 9, 0), number(per_us(r.bytes, r.us, 1e12), 7, 2),
             percent(r.floor_us / r.us, 9), number(r.cublaslt_us, 10, 1), percent(r.cublaslt_us / r.us, 8),
             number(r.anchor.us, 10, 1), percent(r.anchor.us / r.us, 8), r.anchor.who);
  std::fflush(stdout);
}

Json to_json(const cuda::KernelTime& r) {
  Json out = {{"kernel", r.kernel},
              {"shape", r.shape},
              {"us", r.us},
              {"flops", r.flops},
              {"bytes", r.bytes},
              {"tflops", per_us(r.flops, r.us, 1e12)},
              {"tb_per_s", per_us(r.bytes, r.us, 1e12)},
              {"floor_us", r.floor_us},
              {"share_of_floor", r.floor_us / r.us}};
  if (r.cublaslt_us > 0) {
    out["cublaslt_us"] = r.cublaslt_us;
    out["share_of_cublaslt"] = r.cublaslt_us / r.us;
  }
  if (r.anchor.us > 0) {
    out["anchor"] = r.anchor.who;
    out["anchor_us"] = r.anchor.us;
    out["share_of_anchor"] = r.anchor.us / r.us;
  }
  return out;
}

Status write_json(const std::string& path, const Chip& chip, const cuda::KernelBench& b) {
  if (path.empty()) return {};
  Json kernels = Json::array();
  for (const auto& r : b.rows) kernels.push_back(to_json(r));
  std::ofstream out(path);
  out << Json{{"bench", "kernels"},
              {"device", chip.name},
              {"copy_tb_per_s", b.copy_bandwidth / 1e12},
              {"event_us", b.event_us},
              {"kernels", kernels}}
             .dump(2)
      << "\n";
  if (!out) return fail(ErrorCode::kUnavailable, "--json: cannot write {}", path);
  return {};
}

Status run(const KernelFlags& f) {
  if (f.repeats < 1) return invalid("--repeats {}: at least 1", f.repeats);
  auto backend = cuda::make_cuda_backend();
  if (!backend) return fail(backend.error().code, "{}: {}", kWhat, backend.error().message);
  const Chip& chip = (*backend)->device().chip();
  cuda::KernelBenchOptions options;
  options.filter = f.filter;
  options.repeats = f.repeats;
  options.started = [&](const cuda::KernelBench& b) { print_header(chip, b); };
  options.measured = print_row;
  ASSIGN(const auto done, cuda::bench_kernels(**backend, options));
  return write_json(f.json, chip, done);
}

#else

Status run(const KernelFlags&) {
  return fail(ErrorCode::kUnsupported, "{}: this build has no CUDA backend; build it with tools/build_cuda",
              kWhat);
}

#endif

}  // namespace

void add_bench_kernels(CLI::App& app, Action& action) {
  auto flags = std::make_shared<KernelFlags>();
  app.add_option("--filter", flags->filter,
                 "Only kernels whose name and shape contain this, as they are printed");
  app.add_option("--repeats", flags->repeats, "Runs of each to time; a quarter where one takes over 5 ms")
      ->capture_default_str();
  app.add_option("--json", flags->json, "Also write the result here");
  app.callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace trireme::cli
