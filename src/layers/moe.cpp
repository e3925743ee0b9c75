#include "layers/moe.h"

namespace trireme::layers {

Result<View> moe(const Context& c, const Moe& w, const ConstView& x) {
  const i64 tokens = x.shape.rows(), hidden = x.shape.cols(), pairs = tokens * w.top_k;
  ASSIGN(View logits, linear_f32(c, x, w.router));
  ASSIGN(i32 * expert, c.arena.take_array<i32>(DType::kI32, pairs));
  ASSIGN(float* weight, c.arena.take_array<float>(DType::kF32, pairs));
  const auto n = static_cast<std::size_t>(pairs);
  TRY(c.ops.moe_gate({.logits = logits,
                      .bias = w.bias,
                      .scoring = w.scoring,
                      .groups = w.groups,
                      .top_groups = w.top_groups,
                      .top_k = w.top_k,
                      .normalise = w.normalise,
                      .routed_scale = w.routed_scale,
                      .expert = {expert, n},
                      .weight = {weight, n}},
                     c.stream));

  ASSIGN(View rows, c.take({pairs, hidden}));
  ASSIGN(i32 * row_of, c.arena.take_array<i32>(DType::kI32, pairs));
  ASSIGN(i32 * expert_end, c.arena.take_array<i32>(DType::kI32, w.experts));
  const In<i32> ends{expert_end, static_cast<std::size_t>(w.experts)};
  TRY(c.ops.moe_permute({.x = x,
                         .expert = {expert, n},
                         .top_k = w.top_k,
                         .experts = w.experts,
                         .rows = rows,
                         .row_of = {row_of, n},
                         .expert_end = {expert_end, static_cast<std::size_t>(w.experts)}},
                        c.stream));
  ASSIGN(View gate_up, c.take({pairs, w.gate_up[0].n}));
  TRY(c.ops.grouped_linear({.x = rows, .expert_end = ends, .w = w.gate_up, .out = gate_up}, c.stream));
  ASSIGN(View h, c.take({pairs, w.gate_up[0].n / 2}));
  TRY(c.ops.swiglu({.gate_up = gate_up, .out = h}, c.stream));
  TRY(c.ops.grouped_linear({.x = h, .expert_end = ends, .w = w.down, .out = rows}, c.stream));

  View out;
  if (w.has_shared) {
    ASSIGN(out, mlp(c, w.shared, x));
  } else {
    ASSIGN(out, c.take({tokens, hidden}));
  }
  TRY(c.ops.moe_combine({.rows = rows,
                         .row_of = {row_of, n},
                         .weight = {weight, n},
                         .top_k = w.top_k,
                         .accumulate = w.has_shared,
                         .out = out},
                        c.stream));
  return out;
}

}  // namespace trireme::layers
