// Around the experts: the gate, ordering rows by expert, summing what comes back.
#include "backends/cuda/bench/session.h"
#include "backends/cuda/bench/shapes.h"
#include "base/rng.h"

namespace trireme::cuda {
namespace {

double d(i64 x) { return static_cast<double>(x); }

// top_k different experts a token.
std::vector<i32> random_experts(i64 tokens) {
  Rng rng(11);
  std::vector<i32> all(static_cast<std::size_t>(V3::experts)), chosen;
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<i32>(i);
  for (i64 t = 0; t < tokens; ++t) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(V3::top_k); ++i) {
      std::swap(all[i], all[i + rng.below(all.size() - i)]);
      chosen.push_back(all[i]);
    }
  }
  return chosen;
}

Status gate(BenchSession& s, i64 tokens) {
  const KernelTime row{.kernel = "gate",
                       .shape = fmt::format("{} x {}, 8 of 4 of 8 groups", tokens, V3::experts),
                       .bytes = d(tokens) * d(4 * V3::experts + 8 * V3::top_k)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View logits = m.f32({tokens, V3::experts}), bias = m.f32({V3::experts});
  const Out<i32> expert = m.room<i32>(tokens * V3::top_k);
  const Out<float> weight = m.room<float>(tokens * V3::top_k);
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().moe_gate({.logits = logits,
                             .bias = bias,
                             .groups = V3::groups,
                             .top_groups = V3::top_groups,
                             .top_k = V3::top_k,
                             .routed_scale = 2.5f,
                             .expert = expert,
                             .weight = weight},
                            s.stream());
  });
}

// Ordering, and moving quantised rows.
Status permute(BenchSession& s, i64 tokens) {
  const i64 pairs = tokens * V3::top_k, n = V3::hidden;
  const KernelTime row{.kernel = "permute",
                       .shape = fmt::format("{} x {} x {}, FP8", tokens, V3::top_k, n),
                       .bytes = d(tokens + pairs) * d(n) * (1 + 4.0 / 128) + 8 * d(pairs)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const Quantised x = m.quantised(tokens, n), rows = m.quantised(pairs, n);
  const In<i32> expert = m.copy(random_experts(tokens));
  const Out<i32> row_of = m.room<i32>(pairs), ends = m.room<i32>(V3::experts);
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().moe_permute({.x = {},
                                .xq = x,
                                .expert = expert,
                                .top_k = V3::top_k,
                                .experts = V3::experts,
                                .rows = {},
                                .rows_q = rows,
                                .row_of = row_of,
                                .expert_end = ends},
                               s.stream());
  });
}

Status combine(BenchSession& s, i64 tokens) {
  const i64 pairs = tokens * V3::top_k, n = V3::hidden;
  const KernelTime row{.kernel = "combine",
                       .shape = fmt::format("{} x {} x {}, added", tokens, V3::top_k, n),
                       .bytes = 2 * d(n) * d(pairs + 2 * tokens) + 8 * d(pairs)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View rows = m.bf16({pairs, n}), out = m.bf16({tokens, n}), weight = m.scales({pairs});
  // Each pair's row lies anywhere: 1019 is prime.
  std::vector<i32> where;
  for (i64 i = 0; i < pairs; ++i) where.push_back(static_cast<i32>(i * 1019 % pairs));
  const In<i32> row_of = m.copy(where);
  TRY(m.status());
  const In<float> weights(weight.as<float>(), static_cast<std::size_t>(pairs));
  return s.measure(row, [&] {
    return s.ops().moe_combine({.rows = rows,
                                .row_of = row_of,
                                .weight = weights,
                                .top_k = V3::top_k,
                                .accumulate = true,
                                .out = out},
                               s.stream());
  });
}

}  // namespace

Status bench_routing(BenchSession& s) {
  for (const i64 tokens : kGlueTokens) TRY(gate(s, tokens));
  for (const i64 tokens : kGlueTokens) TRY(permute(s, tokens));
  for (const i64 tokens : kGlueTokens) TRY(combine(s, tokens));
  return {};
}

}  // namespace trireme::cuda
