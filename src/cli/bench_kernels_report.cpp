// The tables and the JSON of `bench kernels`.
#include "cli/bench_kernels.h"
#ifdef TRIREME_CUDA
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "backends/cuda/bench/judge.h"
#include "backends/cuda/bench/sweep.h"
#include "backends/cuda/bench/tune.h"
#include "backends/cuda/cuda_backend.h"

namespace trireme::cli {
namespace {

double per_us(double amount, double us, double unit) { return amount / us * 1e6 / unit; }

// A column of `width`, with a dash where there is nothing to say.
std::string number(double value, int width, int decimals) {
  return value > 0 ? fmt::format("{:>{}.{}f}", value, width, decimals) : fmt::format("{:>{}}", "-", width);
}
std::string percent(double share, int width) {
  return share > 0 ? fmt::format("{:>{}.0f}%", 100 * share, width - 1) : fmt::format("{:>{}}", "-", width);
}
std::string loss_text(const std::optional<double>& loss, int width) {
  return loss ? fmt::format("{:>{}.1f}%", 100 * *loss, width - 1) : fmt::format("{:>{}}", "refused", width);
}

void print_header(const Chip& chip, const cuda::BenchYardsticks& b) {
  fmt::print("{}, {} SMs\n", chip.name, chip.units);
  fmt::print(
      "copy bandwidth {:.2f} TB/s (read + write, measured now); peaks {:.0f} / {:.0f} TFLOPS FP8 / BF16 "
      "(datasheet)\n",
      b.copy_bandwidth / 1e12, cuda::kDatasheetFp8 / 1e12, cuda::kDatasheetBf16 / 1e12);
  fmt::print(
      "medians, L2 flushed before each run, random data, rested GPU; {:.1f} us of each is the clock's own\n",
      b.event_us);
}

Json head_json(const char* bench, const Chip& chip, const cuda::BenchYardsticks& b) {
  return {{"bench", bench},
          {"device", chip.name},
          {"sms", chip.units},
          {"copy_tb_per_s", b.copy_bandwidth / 1e12},
          {"event_us", b.event_us}};
}

// The table of kernels.

void print_columns(const cuda::BenchYardsticks& b) {
  fmt::print(
      "cuBLASLt: {}; anchor: the field's best on an H200, measured elsewhere; above 100% is faster\n\n",
      b.cublaslt ? "the same product, measured now" : "the library is not on this machine");
  fmt::print("{:<26}{:<46}{:>9}{:>9}{:>7}{:>9}{:>10}{:>8}{:>10}{:>8}  {}\n", "kernel", "shape", "us",
             "TFLOPS", "TB/s", "of floor", "cuBLASLt", "of it", "anchor", "of it", "whose");
}

std::string remark(const cuda::KernelTime& r) {
  if (r.even_us == 0) return r.anchor.who;
  return fmt::format("{:.2f} x an even load's {:.1f} us (bar {})", r.us / r.even_us, r.even_us,
                     cuda::kSkewBar);
}

void print_row(const cuda::KernelTime& r) {
  fmt::print("{:<26}{:<46}{:>9.1f}{}{}{}{}{}{}{}  {}\n", r.kernel, r.shape, r.us,
             number(per_us(r.flops, r.us, 1e12), 9, 0), number(per_us(r.bytes, r.us, 1e12), 7, 2),
             percent(r.floor_us / r.us, 9), number(r.cublaslt_us, 10, 1), percent(r.cublaslt_us / r.us, 8),
             number(r.anchor.us, 10, 1), percent(r.anchor.us / r.us, 8), remark(r));
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
  if (r.even_us > 0) {
    out["even_us"] = r.even_us;
    out["times_even"] = r.us / r.even_us;
  }
  return out;
}

Result<Json> table(Backend& backend, cuda::KernelBenchOptions options) {
  const Chip& chip = backend.device().chip();
  options.started = [&](const cuda::BenchYardsticks& b) {
    print_header(chip, b);
    print_columns(b);
  };
  options.measured = print_row;
  ASSIGN(const auto done, cuda::bench_kernels(backend, options));
  Json out = head_json("kernels", chip, done.yardsticks), kernels = Json::array();
  for (const auto& r : done.rows) kernels.push_back(to_json(r));
  out["kernels"] = std::move(kernels);
  return out;
}

// --tune

std::string tile_of(const cuda::TuneShape& shape, int variant) {
  return cuda::variant_tiles(shape.fp8)[static_cast<std::size_t>(variant)].text();
}

void print_tuned(const cuda::TuneRow& r) {
  const auto* const best = r.best();
  fmt::print("{:<18}{:<44}{}{}  {:<18}{}  {:<18}{}{}{}{}\n", r.shape.kernel(), r.shape.text(),
             number(best ? best->us : 0, 9, 1), percent(best ? r.floor_us / best->us : 0, 10),
             best ? tile_of(r.shape, best->variant) : "none", number(r.chosen_us().value_or(0), 9, 1),
             tile_of(r.shape, r.chosen), loss_text(r.choice_loss(), 8), number(r.cublaslt_us, 10, 1),
             loss_text(r.serving_loss(), 9), r.serving_cublaslt ? "  cuBLASLt" : "");
  std::fflush(stdout);
}

void print_losses(const char* what, const cuda::LossSummary& s) {
  if (s.shapes == 0) return;
  fmt::print("{} over {} shapes: {:.1f}% slower in the mean, {:.1f}% at worst ({})\n", what, s.shapes,
             100 * s.mean, 100 * s.worst, s.worst_at);
}

Json to_json(const cuda::LossSummary& s) {
  return {{"shapes", s.shapes}, {"mean", s.mean}, {"worst", s.worst}, {"worst_at", s.worst_at}};
}

Json tiles_json(bool fp8) {
  Json tiles = Json::array();
  for (const auto& t : cuda::variant_tiles(fp8))
    tiles.push_back({{"bm", t.bm}, {"bn", t.bn}, {"cluster", t.cluster}, {"split", t.split}});
  return tiles;
}

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json to_json(const cuda::TuneRow& r) {
  Json times = Json::array();
  for (const auto& t : r.times) times.push_back({{"variant", t.variant}, {"us", t.us}});
  const auto* const best = r.best();
  return {{"kernel", r.shape.kernel()},
          {"shape", r.shape.text()},
          {"fp8", r.shape.fp8},
          {"layout", to_string(r.shape.layout)},
          {"experts", r.shape.experts},
          {"m", r.shape.m},
          {"n", r.shape.n},
          {"k", r.shape.k},
          {"floor_us", r.floor_us},
          {"cublaslt_us", r.cublaslt_us > 0 ? Json(r.cublaslt_us) : Json()},
          {"serving", r.serving_cublaslt ? "cublaslt" : "ours"},
          {"best", best ? Json(best->variant) : Json()},
          {"chosen", r.chosen},
          {"choice_loss", or_null(r.choice_loss())},
          {"serving_loss", or_null(r.serving_loss())},
          {"times", times}};
}

Result<Json> tuning(Backend& backend, cuda::KernelBenchOptions options) {
  const Chip& chip = backend.device().chip();
  options.started = [&](const cuda::BenchYardsticks& b) {
    print_header(chip, b);
    fmt::print(
        "tiles: rows x columns, c: CTAs that share weights, s: K whole (1), shared in L2 (2), in a cluster "
        "(3)\n\n");
    fmt::print("{:<18}{:<44}{:>9}{:>10}  {:<18}{:>9}  {:<18}{:>8}{:>10}{:>9}  {}\n", "kernel", "shape",
               "best us", "of floor", "tile", "chosen us", "tile", "slower", "cuBLASLt", "serving",
               "which serves");
  };
  ASSIGN(const auto done, cuda::tune_kernels(backend, options, print_tuned));
  const auto sums = cuda::summary_of(done.rows);
  fmt::print("\n");
  print_losses("the tile that is chosen, beside the best tile,", sums.choice);
  print_losses("what serving runs, beside the best of tiles and cuBLASLt,", sums.serving);
  for (const auto& shape : sums.refused) fmt::print("the chosen variant refuses {}\n", shape);

  Json out = head_json("kernels --tune", chip, done.yardsticks), shapes = Json::array();
  for (const auto& r : done.rows) shapes.push_back(to_json(r));
  out["variants"] = {{"fp8", tiles_json(true)}, {"bf16", tiles_json(false)}};
  out["choice"] = to_json(sums.choice);
  out["serving"] = to_json(sums.serving);
  out["refused"] = sums.refused;
  out["shapes"] = std::move(shapes);
  return out;
}

// --sweep

constexpr double kPaddingPays = 1.05;  // below it, noise

bool within(const cuda::SweepCurve& c) {
  return c.worst() == nullptr || c.worst()->over_neighbours <= cuda::kCliffBar;
}

std::string verdict(const cuda::SweepCurve& c) {
  const auto* const worst = c.worst();
  if (worst == nullptr) return "too few points to judge steps";
  std::string text =
      fmt::format("{:.2f} x the line between its neighbours at worst, at m {} (bar {}){}",
                  worst->over_neighbours, worst->rows, cuda::kCliffBar, within(c) ? "" : ": A CLIFF");
  if (const auto* const few = c.worst_few(); few != nullptr && few->over_more_rows > kPaddingPays)
    text += fmt::format("; m {} takes {:.2f} x what more rows take", few->rows, few->over_more_rows);
  return text;
}

void print_curve(const cuda::SweepCurve& c) {
  fmt::print("\n{}: {}, {}, n{} k{}\n", c.group, c.name, c.fp8 ? "FP8" : "BF16", c.n, c.k);
  fmt::print("{:>7}{:>10}{:>9}{:>7}{:>10}{:>10}{:>9}\n", "m", "us", "TFLOPS", "TB/s", "floor us", "of floor",
             "of line");
  for (const auto& p : c.points)
    fmt::print("{:>7}{:>10.1f}{:>9.0f}{:>7.2f}{:>10.1f}{}{}\n", p.rows, p.us, per_us(p.flops, p.us, 1e12),
               per_us(p.bytes, p.us, 1e12), p.floor_us, percent(p.floor_us / p.us, 10),
               number(p.over_neighbours, 9, 2));
  fmt::print("  {}\n", verdict(c));
  std::fflush(stdout);
}

Json to_json(const cuda::SweepCurve& c) {
  Json points = Json::array();
  for (const auto& p : c.points) {
    Json point = {{"m", p.rows},
                  {"us", p.us},
                  {"tflops", per_us(p.flops, p.us, 1e12)},
                  {"tb_per_s", per_us(p.bytes, p.us, 1e12)},
                  {"floor_us", p.floor_us},
                  {"share_of_floor", p.floor_us / p.us},
                  {"over_more_rows", p.over_more_rows}};
    if (p.over_neighbours > 0) point["over_neighbours"] = p.over_neighbours;
    points.push_back(std::move(point));
  }
  Json out = {{"group", c.group}, {"name", c.name}, {"fp8", c.fp8},     {"experts", c.experts},
              {"n", c.n},         {"k", c.k},       {"points", points}, {"within_bar", within(c)}};
  if (const auto* const worst = c.worst()) {
    out["worst_over_neighbours"] = worst->over_neighbours;
    out["worst_m"] = worst->rows;
  }
  return out;
}

Result<Json> sweep(Backend& backend, cuda::KernelBenchOptions options) {
  const Chip& chip = backend.device().chip();
  options.started = [&](const cuda::BenchYardsticks& b) {
    print_header(chip, b);
    fmt::print(
        "m: rows, of each expert where there are several; of line: over the line between the two points "
        "beside it\n");
  };
  ASSIGN(const auto done, cuda::sweep_kernels(backend, options, print_curve));
  const auto good = std::count_if(done.curves.begin(), done.curves.end(), within);
  fmt::print("\n{} of {} projections without a cliff\n", good, done.curves.size());

  Json out = head_json("kernels --sweep", chip, done.yardsticks), curves = Json::array();
  for (const auto& c : done.curves) curves.push_back(to_json(c));
  out["bar"] = cuda::kCliffBar;
  out["within_bar"] = good == static_cast<std::ptrdiff_t>(done.curves.size());
  out["projections"] = std::move(curves);
  return out;
}

}  // namespace

Result<Json> measure_kernels(const KernelFlags& f) {
  auto backend = cuda::make_cuda_backend();
  if (!backend)
    return fail(backend.error().code, "bench kernels measures the GPU's kernels: {}",
                backend.error().message);
  cuda::KernelBenchOptions options;
  options.filter = f.filter;
  options.repeats = f.repeats;
  options.rows = f.rows;
  return (f.tune ? tuning : f.sweep ? sweep : table)(**backend, std::move(options));
}

}  // namespace trireme::cli
#endif
