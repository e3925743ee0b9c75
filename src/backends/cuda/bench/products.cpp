// Matrix products: dense, grouped by expert, and one matrix a head.
#include "backends/cuda/bench/judge.h"
#include "backends/cuda/bench/operands.h"
#include "backends/cuda/bench/shapes.h"

namespace trireme::cuda {
namespace {

Status dense_fp8(BenchSession& s, const DenseShape& c) {
  KernelTime row =
      product_row("gemm_fp8", fmt::format("{} m{} n{} k{}", c.what, c.m, c.n, c.k), true, 1, c.m, c.n, c.k);
  row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const Quantised x = m.quantised(c.m, c.k);
  const View out = m.room(DType::kBF16, {c.m, c.n});
  const auto packed = random_weight(m, true, 1, c.n, c.k);
  TRY(m.status());
  LinearWeight w;
  w.n = c.n, w.k = c.k, w.packed = packed, w.fp8_input = true;
  return s.measure(
      row, [&] { return s.ops().linear({.x = {}, .w = &w, .out = out, .xq = x}, s.stream()); },
      by_cublaslt(s, {.x = {}, .xq = x, .w = *packed, .out = out}));
}

// Our own kernel, which Ops::linear uses where results must not depend on the batch; cuBLASLt elsewhere.
Status dense_bf16(BenchSession& s, const DenseShape& c) {
  const bool head = c.n == V3::vocab || c.n == V3::experts;  // float32 out
  KernelTime row = product_row("gemm_bf16", fmt::format("{} m{} n{} k{}", c.what, c.m, c.n, c.k), false, 1,
                               c.m, c.n, c.k, head ? 4 : 2);
  row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View x = m.bf16({c.m, c.k}), out = m.room(head ? DType::kF32 : DType::kBF16, {c.m, c.n});
  const auto packed = random_weight(m, false, 1, c.n, c.k);
  TRY(m.status());
  const Operands o = {.x = x, .xq = {}, .w = *packed, .out = out};
  GemmBf16Args g = bf16_args(s, o);
  g.rows.rows = c.m;
  return s.measure(
      row, [&] { return status_of(gemm_bf16(g, s.stream().handle()), "gemm_bf16"); }, by_cublaslt(s, o));
}

Status head_products(BenchSession& s, const HeadShape& c) {
  const KernelTime row = product_row(
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
  g.packed = random_weight(m, false, c.heads, c.n, c.k, c.transposed);
  TRY(m.status());
  return s.measure(row, [&] { return s.ops().head_linear({.x = x, .w = &g, .out = out}, s.stream()); });
}

Status packed_groups(BenchSession& s, const GroupedShape& c, const KernelTime& row) {
  const i64 rows = c.experts * c.m;
  RowMemory m(s);
  const View out = m.room(DType::kBF16, {rows, c.n});
  const Quantised xq = c.fp8 ? m.quantised(rows, c.k) : Quantised{};
  const View x = c.fp8 ? View() : m.bf16({rows, c.k});
  const In<i32> ends = m.copy(ends_of(even_sizes(c.experts, c.m)));
  GroupWeight g;
  g.n = c.n, g.k = c.k, g.fp8_input = c.fp8;
  g.packed = random_weight(m, c.fp8, c.experts, c.n, c.k);
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
  const auto w = random_weight(m, true, c.experts, c.n, c.k);
  TRY(m.status());
  GemmFp8Args g = fp8_args(s, {.x = {}, .xq = x, .w = *w, .out = out});
  g.rows = masked_rows(c.experts, c.m, counts);
  return s.measure(row, [&] { return status_of(gemm_fp8(g, s.stream().handle()), "gemm_fp8"); });
}

// The same rows, spread evenly over the experts and by Zipf's law.
Status skewed_groups(BenchSession& s, const SkewedShape& c) {
  KernelTime row = product_row(
      "gemm_fp8 Zipf", fmt::format("{} {} experts {} rows n{} k{}", c.what, c.experts, c.rows, c.n, c.k),
      true, c.experts, c.rows, c.n, c.k);
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View out = m.room(DType::kBF16, {c.rows, c.n});
  const Quantised xq = m.quantised(c.rows, c.k);
  GroupWeight g;
  g.n = c.n, g.k = c.k, g.fp8_input = true;
  g.packed = random_weight(m, true, c.experts, c.n, c.k);
  const In<i32> even = m.copy(ends_of(even_sizes(c.experts, c.rows / c.experts)));
  const In<i32> skewed = m.copy(ends_of(zipf_sizes(c.experts, c.rows, kSkewSeed)));
  TRY(m.status());
  const auto launch = [&](In<i32> ends) {
    return s.ops().grouped_linear({.x = {}, .expert_end = ends, .w = &g, .out = out, .xq = xq}, s.stream());
  };
  ASSIGN(row.even_us, s.time_us([&] { return launch(even); }));
  return s.measure(row, [&] { return launch(skewed); });
}

Status grouped(BenchSession& s, const GroupedShape& c) {
  KernelTime row =
      product_row(fmt::format("{} {}", c.fp8 ? "gemm_fp8" : "gemm_bf16", c.masked ? "masked" : "packed"),
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
  for (const auto& c : kSkewed) TRY(skewed_groups(s, c));
  for (const auto& c : kDenseBf16) TRY(dense_bf16(s, c));
  for (const auto& c : kHeads) TRY(head_products(s, c));
  return {};
}

}  // namespace trireme::cuda
