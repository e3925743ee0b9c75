#include "layers/moe.h"

namespace trireme::layers {
namespace {

// Rows sorted by expert, and where each (token, choice) went.
struct Routed {
  Activation rows;
  Out<i32> row_of, expert_end;
  In<float> weight;
};

Result<Routed> route(const Context& c, const Moe& w, Activation& x) {
  const i64 tokens = x.rows(), pairs = tokens * w.top_k, local = w.gate_up.count();
  const auto n = static_cast<std::size_t>(pairs);
  c.mark("router");
  ASSIGN(View logits, linear_f32(c, x, w.router));
  ASSIGN(i32 * expert, c.arena.take_array<i32>(DType::kI32, pairs));
  ASSIGN(float* weight, c.arena.take_array<float>(DType::kF32, pairs));
  TRY(c.ops.moe_gate({.logits = logits,
                      .bias = w.bias,
                      .scoring = w.scoring,
                      .groups = w.groups,
                      .top_groups = w.top_groups,
                      .top_k = w.top_k,
                      .normalise = w.normalise,
                      .routed_scale = w.routed_scale,
                      .place = w.place,
                      .expert = {expert, n},
                      .weight = {weight, n}},
                     c.stream));
  c.mark("permute");
  Routed r;
  r.weight = {weight, n};
  ASSIGN(i32 * row_of, c.arena.take_array<i32>(DType::kI32, pairs));
  ASSIGN(i32 * expert_end, c.arena.take_array<i32>(DType::kI32, local));
  r.row_of = {row_of, n};
  r.expert_end = {expert_end, static_cast<std::size_t>(local)};
  View rows;
  const bool fp8 = w.gate_up.fp8_input;
  if (fp8) {
    TRY(provide(c, x, true));
    ASSIGN(r.rows.q, take_quantised(c, pairs, x.cols()));
  } else {
    ASSIGN(rows, c.take({pairs, x.cols()}));
    r.rows.x = rows;
  }
  TRY(c.ops.moe_permute({.x = fp8 ? ConstView{} : x.x,
                         .xq = fp8 ? x.q : Quantised{},
                         .expert = {expert, n},
                         .top_k = w.top_k,
                         .experts = static_cast<int>(local),
                         .rows = rows,
                         .rows_q = r.rows.q,
                         .row_of = r.row_of,
                         .expert_end = r.expert_end},
                        c.stream));
  return r;
}

Result<View> grouped(const Context& c, const GroupWeight& w, const Activation& x, In<i32> expert_end) {
  ASSIGN(View out, c.take({x.rows(), w.n}));
  TRY(c.ops.grouped_linear({.x = x.x, .expert_end = expert_end, .w = &w, .out = out, .xq = x.q}, c.stream));
  return out;
}

// silu(gate) * up of the rows' products, in the form that a matrix of `fp8` inputs wants.
Result<Activation> grouped_swiglu(const Context& c, const GroupWeight& gate_up, const Activation& x,
                                  In<i32> expert_end, bool fp8) {
  ASSIGN(View product, c.take({x.rows(), gate_up.n}));
  ASSIGN(SwigluRows r, take_swiglu(c, x.rows(), gate_up.n / 2, fp8));
  c.mark("experts gate+up");
  if (c.ops.grouped_linear_swiglu != nullptr) {
    TRY(c.ops.grouped_linear_swiglu({.x = x.x,
                                     .expert_end = expert_end,
                                     .w = &gate_up,
                                     .gate_up = product,
                                     .out = r.out,
                                     .q = r.h.q,
                                     .xq = x.q},
                                    c.stream));
    return r.h;
  }
  TRY(c.ops.grouped_linear({.x = x.x, .expert_end = expert_end, .w = &gate_up, .out = product, .xq = x.q},
                           c.stream));
  c.mark("swiglu");
  TRY(c.ops.swiglu({.gate_up = product, .out = r.out, .q = r.h.q, .rows_used = expert_end}, c.stream));
  return r.h;
}

}  // namespace

Status moe(const Context& c, const Moe& w, Activation& x, const View& out) {
  ASSIGN(Routed r, route(c, w, x));
  ASSIGN(Activation h, grouped_swiglu(c, w.gate_up, r.rows, r.expert_end, w.down.fp8_input));
  c.mark("experts down");
  ASSIGN(View rows, grouped(c, w.down, h, r.expert_end));
  if (w.has_shared) TRY(mlp(c, w.shared, x, out));
  c.mark("combine");
  return c.ops.moe_combine({.rows = rows,
                            .row_of = r.row_of,
                            .weight = r.weight,
                            .top_k = w.top_k,
                            .accumulate = w.has_shared,
                            .out = out},
                           c.stream);
}

}  // namespace trireme::layers
