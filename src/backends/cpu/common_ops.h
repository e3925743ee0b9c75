// Ops with one implementation for both backends: choosing and moving rows, where there is one way to be right
// and no arithmetic worth a second opinion beyond the tests'.
#pragma once
#include "ops/ops.h"

namespace trireme::cpu {

Status moe_gate(const MoeGateArgs&, Stream&);
Status moe_permute(const MoePermuteArgs&, Stream&);
Status moe_combine(const MoeCombineArgs&, Stream&);
Status gather_rows(const GatherRowsArgs&, Stream&);
Status kv_copy(const KvCopyArgs&, Stream&);
// kInvalidArgument, naming the row, when its logits hold NaN or +infinity or when every token is banned.
Status sample(const SampleArgs&, Stream&);

}  // namespace trireme::cpu
