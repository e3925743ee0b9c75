// The fast path's ops that stream through memory once. Threads are used only for what takes longer than
// waking them.
#pragma once
#include "ops/ops.h"

namespace trireme::cpu {

Status embedding(const EmbeddingArgs&, Stream&);
Status rms_norm(const RmsNormArgs&, Stream&);
Status add(const AddArgs&, Stream&);
Status swiglu(const SwigluArgs&, Stream&);
Status rope(const RopeArgs&, Stream&);
Status mla_append(const MlaAppendArgs&, Stream&);
Status mla_gather(const MlaGatherArgs&, Stream&);
Status gqa_append(const GqaAppendArgs&, Stream&);

}  // namespace trireme::cpu
