// The oracle's mathematics: float32, written as the formulas are.
#pragma once
#include "ops/ops.h"

namespace trireme::cpu::oracle {

Status prepare(Device&, LinearWeight&);
i64 prepared_bytes(i64 n, i64 k, DType stored);
Status embedding(const EmbeddingArgs&, Stream&);
Status rms_norm(const RmsNormArgs&, Stream&);
Status add(const AddArgs&, Stream&);
Status linear(const LinearArgs&, Stream&);
Status head_linear(const HeadLinearArgs&, Stream&);
Status swiglu(const SwigluArgs&, Stream&);
Status rope(const RopeArgs&, Stream&);
Status mla_append(const MlaAppendArgs&, Stream&);
Status mla_gather(const MlaGatherArgs&, Stream&);
Status mla_absorbed(const MlaAbsorbedArgs&, Stream&);
Status mla_expanded(const MlaExpandedArgs&, Stream&);
Status gqa_append(const GqaAppendArgs&, Stream&);
Status gqa_attention(const GqaAttentionArgs&, Stream&);
Status grouped_linear(const GroupedLinearArgs&, Stream&);

}  // namespace trireme::cpu::oracle
