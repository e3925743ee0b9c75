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
  std::vector<LinearWeight> gate_up, down;  // [experts]
  bool has_shared = false;
  Mlp shared;
};

// x [tokens, hidden] act, after the norm. The result is to be added to the residual stream.
Result<View> moe(const Context& c, const Moe& w, const ConstView& x);

}  // namespace trireme::layers
