#include "backends/cuda/bench/tune.h"

#include "backends/cuda/bench/judge.h"
#include "backends/cuda/bench/operands.h"
#include "backends/cuda/bench/shapes.h"
#include "backends/cuda/heuristics/dense_choice.h"
#include "backends/cuda/heuristics/gemm_tile.h"

namespace trireme::cuda {
namespace {

using Variant = std::function<cudaError_t(int)>;
constexpr int kRival = -1;

// Else as in serving, which knows their mean alone.
bool loads_are_known(const TuneShape& c) {
  return c.layout != ProductRows::kZipf && c.layout != ProductRows::kDrawn;
}

std::vector<i32> sizes_of(const TuneShape& c) {
  if (c.layout == ProductRows::kZipf) return zipf_sizes(c.experts, c.experts * c.m, kSkewSeed);
  if (c.layout == ProductRows::kDrawn) return drawn_sizes(c.experts, c.experts * c.m);
  return even_sizes(c.experts, c.m);
}

GemmRows rows_of(RowMemory& m, const TuneShape& c) {
  if (c.layout == ProductRows::kMasked)
    return masked_rows(c.experts, c.m, m.copy(even_sizes(c.experts, c.m)));
  GemmRows r;
  r.rows = c.experts * c.m;
  if (c.layout == ProductRows::kDense) return r;
  r.layout = RowLayout::packed;
  r.experts = static_cast<int>(c.experts);
  if (loads_are_known(c)) r.rows_hint = c.m;
  r.counts = m.copy(ends_of(sizes_of(c))).data();
  return r;
}

// The times of the variants that take the shape, and after them cuBLASLt's if `rival` is given. `running` is
// the one that was started last: a fault on the GPU tells of itself only later.
Status time_all(BenchSession& s, const Variant& variant, const Launch& rival, TuneRow& row, int& running) {
  const auto run = [&](int v) { return variant(running = v); };
  std::vector<Launch> launches;
  const int count = static_cast<int>(variant_tiles(row.shape.fp8).size());
  for (int v = 0; v < count; ++v) {
    const cudaError_t e = run(v);
    if (e == cudaErrorInvalidValue) {
      static_cast<void>(cudaGetLastError());  // not to be found again by the next call
      continue;
    }
    TRY(status_of(e, "a variant of the product"));
    TRY(s.stream().synchronize());
    row.times.push_back({.variant = v});
    launches.push_back([&run, v] { return status_of(run(v), "a variant of the product"); });
  }
  // A product that the library refuses has no figure.
  if (rival && rival()) {
    launches.push_back([&] {
      running = kRival;
      return rival();
    });
  }
  if (launches.empty()) return {};
  ASSIGN(const auto us, s.times_us(launches));
  for (std::size_t i = 0; i < row.times.size(); ++i) row.times[i].us = us[i];
  if (us.size() > row.times.size()) row.cublaslt_us = us.back();
  return {};
}

Result<TuneRow> tune(BenchSession& s, const TuneShape& c) {
  TuneRow row;
  row.shape = c;
  RowMemory m(s);
  const GemmRows rows = rows_of(m, c);
  const Quantised xq = c.fp8 ? m.quantised(rows.rows, c.k) : Quantised{};
  const View x = c.fp8 ? View() : m.bf16({rows.rows, c.k});
  const View out = m.room(c.out_f32 ? DType::kF32 : DType::kBF16, {rows.rows, c.n});
  const auto w = random_weight(m, c.fp8, c.experts, c.n, c.k);
  TRY(m.status());
  const Operands o = {.x = x, .xq = xq, .w = *w, .out = out};
  Variant run;
  if (c.fp8) {
    run = [&, g = fp8_args(s, o)](int v) mutable {
      g.rows = rows, g.variant = v;
      return gemm_fp8(g, s.stream().handle());
    };
  } else {
    run = [&, g = bf16_args(s, o)](int v) mutable {
      g.rows = rows, g.variant = v;
      return gemm_bf16(g, s.stream().handle());
    };
  }
  const bool dense = c.layout == ProductRows::kDense;
  int running = 0;
  const Status timed = time_all(s, run, dense ? by_cublaslt(s, o) : nullptr, row, running);
  if (!timed) {
    const auto tiles = variant_tiles(c.fp8);
    return fail(timed.error().code, "{}: {}",
                running == kRival ? "cuBLASLt" : tiles[static_cast<std::size_t>(running)].text(),
                timed.error().message);
  }
  row.floor_us = s.floor_us(
      product_row({}, {}, c.fp8, c.experts, c.experts * c.m, c.n, c.k, c.out_f32 ? i64{4} : i64{2}));
  row.chosen = choose_gemm_tile({.fp8 = c.fp8,
                                 .rows_per_group = c.m,
                                 .groups = c.experts,
                                 .n = c.n,
                                 .k = c.k,
                                 .sms = s.device().chip().units,
                                 .even = loads_are_known(c)});
  row.serving_cublaslt = row.cublaslt_us > 0 && (!c.fp8 || cublaslt_is_faster(c.m, c.n, c.k));
  return row;
}

}  // namespace

Result<TuneBench> tune_kernels(Backend& backend, const KernelBenchOptions& options,
                               const std::function<void(const TuneRow&)>& measured) {
  ASSIGN(const auto s, BenchSession::open(backend, options));
  TuneBench done{.yardsticks = s->yardsticks(), .rows = {}};
  for (const TuneShape& shape : tune_shapes(options.rows)) {
    if (!s->wanted({.kernel = shape.kernel(), .shape = shape.text()})) continue;
    auto row = tune(*s, shape);
    if (!row) return fail(row.error().code, "{} {}: {}", shape.kernel(), shape.text(), row.error().message);
    if (measured) measured(*row);
    done.rows.push_back(std::move(*row));
  }
  if (done.rows.empty()) return nothing_matches(options);
  return done;
}

}  // namespace trireme::cuda
