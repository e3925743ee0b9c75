// Attention of the fast path: one algorithm for all three forms.
//
// Keys are taken in splits of 512 at absolute positions, in order. Within a split a query's scores, its
// softmax and its weighted sum of values are computed apart from everything else; splits are then merged in
// order. A query's result therefore never depends on the batch, on the chunk it came in, on tiles or on
// threads.
#pragma once
#include "backends/cpu/cpu_device.h"
#include "ops/ops.h"

namespace trireme::cpu {

Status mla_absorbed(const MlaAbsorbedArgs&, Stream&);
Status mla_expanded(const MlaExpandedArgs&, Stream&);
Status gqa_attention(const GqaAttentionArgs&, Stream&);

}  // namespace trireme::cpu
