// The shapes and the sums of a tuning run; no GPU here.
#include <algorithm>

#include "backends/cuda/bench/shapes.h"
#include "backends/cuda/bench/tune.h"
#include "backends/cuda/heuristics/gemm_tile.h"

namespace trireme::cuda {
namespace {

bool same_product(const TuneShape& a, const TuneShape& b) {
  return a.fp8 == b.fp8 && a.layout == b.layout && a.experts == b.experts && a.m == b.m && a.n == b.n &&
         a.k == b.k;
}

std::optional<double> loss(std::optional<double> us, double best) {
  return us && best > 0 ? std::optional(*us / best - 1) : std::nullopt;
}

void add(LossSummary& sum, double loss, const TuneShape& at) {
  sum.mean += loss;  // the sum until the end
  if (sum.shapes++ > 0 && loss <= sum.worst) return;
  sum.worst = loss;
  sum.worst_at = at.kernel() + " " + at.text();
}

}  // namespace

const char* to_string(ProductRows layout) {
  switch (layout) {
    case ProductRows::kDense:
      return "dense";
    case ProductRows::kPacked:
      return "packed";
    case ProductRows::kZipf:
      return "Zipf";
    case ProductRows::kDrawn:
      return "drawn";
    case ProductRows::kMasked:
      break;
  }
  return "masked";
}

std::string TuneShape::kernel() const {
  const char* const name = fp8 ? "gemm_fp8" : "gemm_bf16";
  return layout == ProductRows::kDense ? name : fmt::format("{} {}", name, to_string(layout));
}

std::string TuneShape::text() const {
  const std::string rows =
      layout == ProductRows::kDense ? fmt::format("m{}", m) : fmt::format("{} x m{}", experts, m);
  return fmt::format("{} {} n{} k{}", what, rows, n, k);
}

std::vector<TuneShape> tune_shapes(const std::vector<i64>& rows) {
  std::vector<TuneShape> shapes;
  const auto take = [&](TuneShape s) {
    if (!rows.empty() && std::find(rows.begin(), rows.end(), s.m) == rows.end()) return;
    if (std::none_of(shapes.begin(), shapes.end(), [&](const auto& t) { return same_product(s, t); }))
      shapes.push_back(std::move(s));
  };
  for (const auto& c : kDenseFp8) take({c.what, true, ProductRows::kDense, 1, c.m, c.n, c.k});
  for (const auto& c : kDenseBf16)
    take({c.what, false, ProductRows::kDense, 1, c.m, c.n, c.k, c.n == V3::vocab || c.n == V3::experts});
  for (const auto& c : kGrouped)
    take({c.what, c.fp8, c.masked ? ProductRows::kMasked : ProductRows::kPacked, c.experts, c.m, c.n, c.k});
  for (const auto& c : kSkewed)
    for (const auto rows_are : {ProductRows::kZipf, ProductRows::kDrawn})
      take({c.what, true, rows_are, c.experts, c.rows / c.experts, c.n, c.k});
  const std::vector<i64> listed(std::begin(kTuneRows), std::end(kTuneRows));
  for (const auto& p : kProjections) {
    for (const i64 m : rows.empty() ? listed : rows) {
      if (m > p.most_rows || (rows.empty() && m * p.experts > kMostTuneRows)) continue;
      take({fmt::format("V3 {}", p.what), p.fp8, p.experts > 0 ? ProductRows::kPacked : ProductRows::kDense,
            std::max<i64>(1, p.experts), m, p.n, p.k, p.out_f32});
      if (p.experts < 2) continue;
      for (const auto rows_are : {ProductRows::kZipf, ProductRows::kDrawn})
        take({fmt::format("V3 {}", p.what), p.fp8, rows_are, p.experts, m, p.n, p.k, p.out_f32});
    }
  }
  return shapes;
}

std::string VariantTile::text() const { return fmt::format("{} x {} c{} s{}", bm, bn, cluster, split); }

std::vector<VariantTile> variant_tiles(bool fp8) {
  std::vector<VariantTile> tiles;
  const auto add = [&](const GemmTile& t) {
    tiles.push_back({.bm = t.bm, .bn = t.bn, .cluster = t.cluster, .split = t.split});
  };
  fp8 ? std::for_each(std::begin(kFp8Tiles), std::end(kFp8Tiles), add)
      : std::for_each(std::begin(kBf16Tiles), std::end(kBf16Tiles), add);
  return tiles;
}

const VariantTime* TuneRow::best() const {
  const auto least =
      std::min_element(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.us < b.us; });
  return least == times.end() ? nullptr : &*least;
}

std::optional<double> TuneRow::chosen_us() const {
  const auto at =
      std::find_if(times.begin(), times.end(), [&](const auto& t) { return t.variant == chosen; });
  return at == times.end() ? std::nullopt : std::optional(at->us);
}

std::optional<double> TuneRow::choice_loss() const {
  return best() == nullptr ? std::nullopt : loss(chosen_us(), best()->us);
}

std::optional<double> TuneRow::serving_loss() const {
  double least = best() == nullptr ? 0 : best()->us;
  if (cublaslt_us > 0 && (least == 0 || cublaslt_us < least)) least = cublaslt_us;
  return loss(serving_cublaslt ? std::optional(cublaslt_us) : chosen_us(), least);
}

TuneSummary summary_of(const std::vector<TuneRow>& rows) {
  TuneSummary s;
  for (const auto& r : rows) {
    const auto choice = r.choice_loss(), serving = r.serving_loss();
    if (choice) add(s.choice, *choice, r.shape);
    if (serving) add(s.serving, *serving, r.shape);
    if (!r.chosen_us()) s.refused.push_back(r.shape.kernel() + " " + r.shape.text());
  }
  for (LossSummary* sum : {&s.choice, &s.serving})
    if (sum->shapes > 0) sum->mean /= static_cast<double>(sum->shapes);
  return s;
}

}  // namespace trireme::cuda
