// The mixture of experts: router, routed experts, shared expert.
#pragma once
#include "layers/mlp.h"

namespace trireme::layers {

struct Moe {
  LinearWeight router;  // [experts, hidden], float32: the choice must not depend on rounding
  ConstView bias;       // [experts] float32, or empty
  Scoring scoring = Scoring::kSigmoidBias;
  int experts = 0, top_k = 0, groups = 1, top_groups = 1;
  bool normalise = true;
  float routed_scale = 1;
  GroupWeight gate_up, down;  // of the experts that are here
  In<i32> place;              // [experts]: where each is among them; empty: all, in order
  bool has_shared = false;
  Mlp shared;
  Want wants() const { return {.x = true, .q = gate_up.fp8_input}; }
};

// x [tokens, hidden], after the norm. `out` is to be added to the residual stream.
Status moe(const Context& c, const Moe& w, Activation& x, const View& out);

}  // namespace trireme::layers
