// The rows of the Ops table that move, norm, rotate and round: everything beside the products, the attention
// and the experts. Activations are BF16.
#pragma once
#include "ops/ops.h"

namespace trireme::cuda {

Status embedding(const EmbeddingArgs&, Stream&);
Status rms_norm(const RmsNormArgs&, Stream&);
Status add(const AddArgs&, Stream&);
Status add_rms_norm(const AddRmsNormArgs&, Stream&);
Status quantise(const QuantiseArgs&, Stream&);
Status swiglu(const SwigluArgs&, Stream&);
Status rope(const RopeArgs&, Stream&);
Status mla_append(const MlaAppendArgs&, Stream&);
Status mla_rope_append(const MlaRopeAppendArgs&, Stream&);
Status gqa_append(const GqaAppendArgs&, Stream&);
Status gqa_rope_append(const GqaRopeAppendArgs&, Stream&);
Status gather_rows(const GatherRowsArgs&, Stream&);
Status kv_copy(const KvCopyArgs&, Stream&);

}  // namespace trireme::cuda
