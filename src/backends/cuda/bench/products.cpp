// Matrix products: dense, grouped by expert, and one matrix a head.
#include "backends/cuda/bench/session.h"
#include "backends/cuda/bench/shapes.h"
#include "backends/cuda/linear.h"
#include "backends/cuda/sm90/gemm/gemm.h"

namespace trireme::cuda {
namespace {

double d(i64 x) { return static_cast<double>(x); }

// `count` products of `rows` rows in all: weights, inputs (with scales) and BF16 or float32 outputs once.
KernelTime product(std::string kernel, std::string shape, bool fp8, i64 count, i64 rows, i64 n, i64 k,
                   i64 out_size = 2) {
  const double width = fp8 ? 1 + 4.0 / 128 : 2;
  return {.kernel = std::move(kernel),
          .shape = std::move(shape),
          .flops = 2 * d(rows) * d(n) * d(k),
          .bytes = d(count) * d(n) * d(k) * (fp8 ? 1 + 4.0 / (128 * 128) : 2) + d(rows) * d(k) * width +
                   d(rows) * d(n) * d(out_size),
          .fp8 = fp8};
}

// As LinearOps::prepare would leave it.
std::shared_ptr<PackedWeight> weight(RowMemory& m, bool fp8, i64 count, i64 n, i64 k,
                                     bool transposed = false) {
  auto w = std::make_shared<PackedWeight>();
  w->n = n, w->k = k, w->count = count, w->fp8 = fp8, w->transposed = transposed;
  w->data = m.buffer(fp8 ? Noise::kCodes : Noise::kBf16, count * n * k * (fp8 ? 1 : 2));
  if (fp8) w->scale = m.buffer(Noise::kScales, count * ceil_div(n, 128) * w->scale_stride() * 4);
  return w;
}

// The same product for cuBLASLt.
LtProduct dense_product(const ConstView& x, const PackedWeight& w, const View& out) {
  LtProduct p;
  p.rows = x.shape.rows(), p.n = w.n, p.k = w.k;
  p.fp8 = w.fp8, p.out_f32 = out.dtype == DType::kF32;
  p.x = x.data, p.w = w.data.data(), p.out = out.mutable_data();
  p.x_stride = x.row_stride, p.w_stride = w.k, p.out_stride = out.row_stride;
  return p;
}

std::function<Status()> by_cublaslt(BenchSession& s, const LtProduct& p) {
  if (s.cublaslt() == nullptr) return nullptr;
  return [&s, p] { return s.cublaslt()->run(p, s.stream()); };
}

Status dense_fp8(BenchSession& s, const DenseShape& c) {
  KernelTime row =
      product("gemm_fp8", fmt::format("{} m{} n{} k{}", c.what, c.m, c.n, c.k), true, 1, c.m, c.n, c.k);
  row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const Quantised x = m.quantised(c.m, c.k);
  const View out = m.room(DType::kBF16, {c.m, c.n});
  const auto packed = weight(m, true, 1, c.n, c.k);
  TRY(m.status());
  LinearWeight w;
  w.n = c.n, w.k = c.k, w.packed = packed, w.fp8_input = true;
  LtProduct p = dense_product(x.codes, *packed, out);
  p.x_scale = x.scale.as<float>(), p.w_scale = static_cast<const float*>(packed->scale.data());
  const bool fits = CublasLt::takes_fp8(c.m, c.n, c.k);
  return s.measure(
      row, [&] { return s.ops().linear({.x = {}, .w = &w, .out = out, .xq = x}, s.stream()); },
      fits ? by_cublaslt(s, p) : nullptr);
}

// Our own kernel, which Ops::linear uses where results must not depend on the batch; cuBLASLt elsewhere.
Status dense_bf16(BenchSession& s, const DenseShape& c) {
  const bool head = c.n == V3::vocab || c.n == V3::experts;  // float32 out
  KernelTime row = product("gemm_bf16", fmt::format("{} m{} n{} k{}", c.what, c.m, c.n, c.k), false, 1, c.m,
                           c.n, c.k, head ? 4 : 2);
  row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View x = m.bf16({c.m, c.k}), out = m.room(head ? DType::kF32 : DType::kBF16, {c.m, c.n});
  const auto packed = weight(m, false, 1, c.n, c.k);
  TRY(m.status());
  GemmBf16Args g;
  g.x = x.data, g.x_stride = c.k, g.w = packed->data.data();
  g.out = out.mutable_data(), g.out_stride = c.n, g.out_f32 = head;
  g.n = static_cast<int>(c.n), g.k = static_cast<int>(c.k);
  g.rows.rows = c.m;
  return s.measure(
      row, [&] { return status_of(gemm_bf16(g, s.stream().handle()), "gemm_bf16"); },
      by_cublaslt(s, dense_product(x, *packed, out)));
}

Status head_products(BenchSession& s, const HeadShape& c) {
  const KernelTime row = product(
      "head_linear", fmt::format("{} {} tokens x {} heads n{} k{}", c.what, c.tokens, c.heads, c.n, c.k),
      false, c.heads, c.tokens * c.heads, c.n, c.k);
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  // W_UK takes the part without position of each head's query; W_UV what attention leaves.
  const i64 stride = c.transposed ? V3::nope + V3::rope : c.k;
  View x = m.bf16({c.tokens, c.heads, stride});
  x = View(x.mutable_data(), DType::kBF16, {c.tokens, c.heads, c.k}, stride);
  const View out = m.room(DType::kBF16, {c.tokens, c.heads, c.n});
  GroupWeight g;
  g.n = c.n, g.k = c.k, g.per_head = true, g.transposed = c.transposed;
  g.packed = weight(m, false, c.heads, c.n, c.k, c.transposed);
  TRY(m.status());
  return s.measure(row, [&] { return s.ops().head_linear({.x = x, .w = &g, .out = out}, s.stream()); });
}

std::vector<i32> ends_of(const GroupedShape& c) {
  std::vector<i32> ends;
  for (i64 e = 1; e <= c.experts; ++e) ends.push_back(static_cast<i32>(e * c.m));
  return ends;
}

Status packed_groups(BenchSession& s, const GroupedShape& c, const KernelTime& row) {
  const i64 rows = c.experts * c.m;
  RowMemory m(s);
  const View out = m.room(DType::kBF16, {rows, c.n});
  const Quantised xq = c.fp8 ? m.quantised(rows, c.k) : Quantised{};
  const View x = c.fp8 ? View() : m.bf16({rows, c.k});
  const In<i32> ends = m.copy(ends_of(c));
  GroupWeight g;
  g.n = c.n, g.k = c.k, g.fp8_input = c.fp8;
  g.packed = weight(m, c.fp8, c.experts, c.n, c.k);
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().grouped_linear({.x = x, .expert_end = ends, .w = &g, .out = out, .xq = xq}, s.stream());
  });
}

// Each expert has room for twice the rows that it has.
Status masked_groups(BenchSession& s, const GroupedShape& c, const KernelTime& row) {
  const i64 rows = c.experts * c.m * 2;
  RowMemory m(s);
  const View out = m.room(DType::kBF16, {rows, c.n});
  const Quantised x = m.quantised(rows, c.k);
  const In<i32> counts = m.copy(std::vector<i32>(static_cast<std::size_t>(c.experts), static_cast<i32>(c.m)));
  const auto w = weight(m, true, c.experts, c.n, c.k);
  TRY(m.status());
  GemmFp8Args g;
  g.x = x.codes.data, g.x_stride = c.k;
  g.x_scale = x.scale.as<float>(), g.x_scale_stride = x.scale.row_stride;
  g.w = w->data.data(), g.w_scale = static_cast<const float*>(w->scale.data());
  g.w_scale_stride = static_cast<int>(w->scale_stride());
  g.out = out.mutable_data(), g.out_stride = c.n;
  g.n = static_cast<int>(c.n), g.k = static_cast<int>(c.k);
  g.rows.layout = RowLayout::masked;
  g.rows.experts = static_cast<int>(c.experts);
  g.rows.counts = counts.data();
  g.rows.rows = rows;
  g.rows.max_m = static_cast<int>(c.m * 2);
  g.rows.rows_hint = c.m;
  return s.measure(row, [&] { return status_of(gemm_fp8(g, s.stream().handle()), "gemm_fp8"); });
}

Status grouped(BenchSession& s, const GroupedShape& c) {
  KernelTime row =
      product(fmt::format("{} {}", c.fp8 ? "gemm_fp8" : "gemm_bf16", c.masked ? "masked" : "packed"),
              fmt::format("{} {} x m{} n{} k{}", c.what, c.experts, c.m, c.n, c.k), c.fp8, c.experts,
              c.experts * c.m, c.n, c.k);
  row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  return c.masked ? masked_groups(s, c, row) : packed_groups(s, c, row);
}

}  // namespace

Status bench_products(BenchSession& s) {
  for (const auto& c : kDenseFp8) TRY(dense_fp8(s, c));
  for (const auto& c : kGrouped) TRY(grouped(s, c));
  for (const auto& c : kDenseBf16) TRY(dense_bf16(s, c));
  for (const auto& c : kHeads) TRY(head_products(s, c));
  return {};
}

}  // namespace trireme::cuda
