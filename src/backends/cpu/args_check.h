// What both CPU backends refuse, by name, before they touch memory: wrong types, shapes that do not fit,
// indices out of range. Activations are float32.
#pragma once
#include "ops/ops.h"

namespace trireme::cpu {

Status check(const EmbeddingArgs&);
Status check(const RmsNormArgs&);
Status check(const AddArgs&);
Status check(const LinearArgs&);
Status check(const HeadLinearArgs&);
Status check(const SwigluArgs&);
Status check(const RopeArgs&);
Status check(const MlaAppendArgs&);
Status check(const GqaAppendArgs&);
Status check(const MlaAbsorbedArgs&);
Status check(const MlaGatherArgs&);
Status check(const MlaExpandedArgs&);
Status check(const GqaAttentionArgs&);
Status check(const MoeGateArgs&);
Status check(const MoePermuteArgs&);
Status check(const GroupedLinearArgs&);
Status check(const MoeCombineArgs&);
Status check(const GatherRowsArgs&);
Status check(const KvCopyArgs&);
Status check_stored(const LinearWeight&);  // before prepare

}  // namespace trireme::cpu
