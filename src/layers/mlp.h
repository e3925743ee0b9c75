// The SwiGLU feed-forward: down(silu(gate(x)) * up(x)).
#pragma once
#include "layers/linear.h"

namespace trireme::layers {

struct Mlp {
  LinearWeight gate_up;  // [2 n, hidden]: gate rows, then up rows
  LinearWeight down;     // [hidden, n]
};

inline Result<View> mlp(const Context& c, const Mlp& w, const ConstView& x) {
  ASSIGN(View gate_up, linear(c, x, w.gate_up));
  ASSIGN(View h, c.take({x.shape.rows(), w.gate_up.n / 2}));
  TRY(c.ops.swiglu({.gate_up = gate_up, .out = h}, c.stream));
  return linear(c, h, w.down);
}

}  // namespace trireme::layers
