// The rows of the Ops table around the experts. Activations are BF16, logits and weights float32.
#pragma once
#include "ops/ops.h"

namespace trireme::cuda {

Status moe_gate(const MoeGateArgs&, Stream&);
Status moe_permute(const MoePermuteArgs&, Stream&);
Status moe_combine(const MoeCombineArgs&, Stream&);

}  // namespace trireme::cuda
