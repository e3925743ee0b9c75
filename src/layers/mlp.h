// The SwiGLU feed-forward: down(silu(gate(x)) * up(x)).
#pragma once
#include "layers/linear.h"

namespace trireme::layers {

struct Mlp {
  LinearWeight gate_up;  // [2 n, hidden]: gate rows, then up rows
  LinearWeight down;     // [hidden, n]
  Want wants() const { return {.x = !gate_up.fp8_input, .q = gate_up.fp8_input}; }
};

// silu(gate) * up in the form that the next matrix wants.
inline Result<Activation> swiglu(const Context& c, const View& gate_up, bool fp8) {
  const i64 rows = gate_up.shape.rows(), n = gate_up.shape.cols() / 2;
  Activation h;
  View out;
  if (fp8) {
    ASSIGN(h.q, take_quantised(c, rows, n));
  } else {
    ASSIGN(out, c.take({rows, n}));
    h.x = out;
  }
  TRY(c.ops.swiglu({.gate_up = gate_up, .out = out, .q = h.q}, c.stream));
  return h;
}

inline Status mlp(const Context& c, const Mlp& w, Activation& x, const View& out) {
  c.mark("dense gate+up");
  ASSIGN(View gate_up, linear(c, x, w.gate_up));
  c.mark("swiglu");
  ASSIGN(Activation h, swiglu(c, gate_up, w.down.fp8_input));
  c.mark("dense down");
  return linear_into(c, h, w.down, out);
}

}  // namespace trireme::layers
