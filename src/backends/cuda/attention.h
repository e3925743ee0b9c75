// The rows of the Ops table that attend. Activations are BF16; the cache is BF16, or FP8 for MLA.
//
// Lengths are only on the device: SeqBatch's bounds choose the kernels. A batch without bounds (0) may be as
// long as its rows and its block table allow.
#pragma once
#include <optional>

#include "ops/ops.h"

namespace trireme::cuda {

class CudaDevice;

// Where mla_query writes codes into the room of act values [tokens, heads, latent] that mla_absorbed reads,
// instead of these values: rows as mla_decode.h has them, then their scales.
struct MlaCodeRoom {
  char* rows;
  float* scale;
};
// Null where it writes the values. room: dense. q_rope: of the queries.
std::optional<MlaCodeRoom> mla_code_room(const KvLayout& l, i64 seqs, const ConstView& room,
                                         const ConstView& q_rope);

Status mla_absorbed(const MlaAbsorbedArgs&, Stream&);
Status mla_expanded(const MlaExpandedArgs&, Stream&);
i64 mla_expanded_room_bytes(const MlaExpandedArgs&);
Status mla_gather(const MlaGatherArgs&, Stream&);
Status gqa_attention(const GqaAttentionArgs&, Stream&);

// 0 where no kernel takes a plan; plan_attention does nothing then.
i64 attention_plan_bytes(const PlanAttentionArgs&, const CudaDevice&);
Status plan_attention(const PlanAttentionArgs&, Stream&);

}  // namespace trireme::cuda
