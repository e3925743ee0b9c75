#include "backends/cuda/bench/sweep.h"

#include <algorithm>

#include "backends/cuda/bench/judge.h"
#include "backends/cuda/bench/operands.h"
#include "backends/cuda/bench/shapes.h"

namespace trireme::cuda {
namespace {

// The first `rows` rows of memory that has room for more.
Quantised first_rows(const Quantised& q, i64 rows) {
  if (!q) return {};
  return {q.codes.rows(0, rows),
          View(q.scale.mutable_data(), DType::kF32, {q.scale.shape[0], quantised_rows(rows)})};
}

Status sweep(BenchSession& s, const Projection& p, SweepCurve& curve) {
  const i64 count = std::max<i64>(1, p.experts), most = count * curve.points.back().rows;
  const bool dense = p.experts == 0;
  RowMemory m(s);
  const Quantised all_xq = p.fp8 ? m.quantised(most, p.k) : Quantised{};
  const View all_x = p.fp8 ? View() : m.bf16({most, p.k});
  const View all_out = m.room(p.out_f32 ? DType::kF32 : DType::kBF16, {most, p.n});
  const auto packed = random_weight(m, p.fp8, count, p.n, p.k);
  TRY(m.status());
  LinearWeight one;
  one.n = p.n, one.k = p.k, one.packed = packed, one.fp8_input = p.fp8;
  GroupWeight several;
  several.n = p.n, several.k = p.k, several.packed = packed, several.fp8_input = p.fp8;
  for (SweepPoint& point : curve.points) {
    const i64 rows = count * point.rows;
    RowMemory of_point(s);
    const In<i32> ends = of_point.copy(ends_of(even_sizes(count, point.rows)));
    TRY(of_point.status());
    const Quantised xq = first_rows(all_xq, rows);
    const View x = p.fp8 ? View() : all_x.rows(0, rows), out = all_out.rows(0, rows);
    const Launch launch = [&] {
      return dense ? s.ops().linear({.x = x, .w = &one, .out = out, .xq = xq}, s.stream())
                   : s.ops().grouped_linear({.x = x, .expert_end = ends, .w = &several, .out = out, .xq = xq},
                                            s.stream());
    };
    const KernelTime row = product_row({}, {}, p.fp8, count, rows, p.n, p.k, p.out_f32 ? i64{4} : i64{2});
    point.flops = row.flops, point.bytes = row.bytes, point.floor_us = s.floor_us(row);
    ASSIGN(point.us, s.time_us(launch));
  }
  return {};
}

SweepCurve empty_curve(const Projection& p, const std::vector<i64>& asked) {
  SweepCurve c{.group = p.group,
               .name = p.experts > 0 ? fmt::format("{}, {} experts", p.what, p.experts) : p.what,
               .fp8 = p.fp8,
               .experts = p.experts,
               .n = p.n,
               .k = p.k,
               .points = {}};
  std::vector<i64> rows = asked;
  if (rows.empty()) rows.assign(std::begin(kSweepRows), std::end(kSweepRows));
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  for (const i64 m : rows)
    if (m <= p.most_rows) c.points.push_back({.rows = m});
  return c;
}

void judge(SweepCurve& c) {
  std::vector<i64> rows;
  std::vector<double> us;
  for (const auto& p : c.points) rows.push_back(p.rows), us.push_back(p.us);
  const auto steps = over_neighbours(rows, us), falls = over_more_rows(us);
  for (std::size_t i = 0; i < rows.size(); ++i)
    c.points[i].over_neighbours = steps[i], c.points[i].over_more_rows = falls[i];
}

}  // namespace

const SweepPoint* SweepCurve::worst() const {
  const auto most = std::max_element(points.begin(), points.end(), [](const auto& a, const auto& b) {
    return a.over_neighbours < b.over_neighbours;
  });
  return most == points.end() || most->over_neighbours == 0 ? nullptr : &*most;
}

const SweepPoint* SweepCurve::worst_few() const {
  const auto most = std::max_element(points.begin(), points.end(), [](const auto& a, const auto& b) {
    return a.over_more_rows < b.over_more_rows;
  });
  return most == points.end() || most->over_more_rows <= 1 ? nullptr : &*most;
}

Result<SweepBench> sweep_kernels(Backend& backend, const KernelBenchOptions& options,
                                 const std::function<void(const SweepCurve&)>& measured) {
  ASSIGN(const auto s, BenchSession::open(backend, options));
  SweepBench done{.yardsticks = s->yardsticks(), .curves = {}};
  for (const Projection& p : kProjections) {
    SweepCurve curve = empty_curve(p, options.rows);
    if (curve.points.empty() || !s->wanted({.kernel = curve.group, .shape = curve.name})) continue;
    const auto status = sweep(*s, p, curve);
    if (!status) return fail(status.error().code, "{}: {}", curve.name, status.error().message);
    judge(curve);
    if (measured) measured(curve);
    done.curves.push_back(std::move(curve));
  }
  if (done.curves.empty()) return nothing_matches(options);
  return done;
}

}  // namespace trireme::cuda
