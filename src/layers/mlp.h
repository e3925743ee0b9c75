// The SwiGLU feed-forward: down(silu(gate(x)) * up(x)).
#pragma once
#include "layers/linear.h"

namespace trireme::layers {

struct Mlp {
  LinearWeight gate_up;  // [2 n, hidden]: gate rows, then up rows
  LinearWeight down;     // [hidden, n]
  Want wants() const { return {.x = !gate_up.fp8_input, .q = gate_up.fp8_input}; }
};

// Room for rows of n in the form that the next matrix wants.
struct SwigluRows {
  Activation h;
  View out;  // what h.x reads
};
inline Result<SwigluRows> take_swiglu(const Context& c, i64 rows, i64 n, bool fp8) {
  SwigluRows r;
  if (fp8) {
    ASSIGN(r.h.q, take_quantised(c, rows, n));
  } else {
    ASSIGN(r.out, c.take({rows, n}));
    r.h.x = r.out;
  }
  return r;
}

// silu(gate) * up of x's product, in the form that a matrix of `fp8` inputs wants.
inline Result<Activation> swiglu(const Context& c, Activation& x, const LinearWeight& gate_up, bool fp8) {
  ASSIGN(View product, c.take({x.rows(), gate_up.n}));
  ASSIGN(SwigluRows r, take_swiglu(c, x.rows(), gate_up.n / 2, fp8));
  c.mark("dense gate+up");
  if (c.ops.linear_swiglu != nullptr) {
    TRY(provide(c, x, gate_up.fp8_input));
    TRY(c.ops.linear_swiglu({.x = x.x,
                             .w = &gate_up,
                             .gate_up = product,
                             .out = r.out,
                             .q = r.h.q,
                             .xq = gate_up.fp8_input ? x.q : Quantised{}},
                            c.stream));
    return r.h;
  }
  TRY(linear_into(c, x, gate_up, product));
  c.mark("swiglu");
  TRY(c.ops.swiglu({.gate_up = product, .out = r.out, .q = r.h.q}, c.stream));
  return r.h;
}

inline Status mlp(const Context& c, const Mlp& w, Activation& x, const View& out) {
  ASSIGN(Activation h, swiglu(c, x, w.gate_up, w.down.fp8_input));
  c.mark("dense down");
  return linear_into(c, h, w.down, out);
}

}  // namespace trireme::layers
