// Expanded MLA on the kernel that its shape has.
#include "backends/cuda/attention.h"
#include "backends/cuda/attention_views.h"
#include "backends/cuda/cuda_device.h"
#include "backends/cuda/heuristics/attention_choice.h"
#include "backends/cuda/sm90/flash_prefill_fp8/flash_prefill_fp8.h"

namespace trireme::cuda {
namespace {

AttentionKernel expanded_kernel(const MlaExpandedArgs& a) {
  const bool fits = aligned(a.q) && aligned(a.kv) && aligned(a.k_rope) && aligned(a.out);
  return choose_mla_expanded(
      {.nope = a.nope, .rope = a.q.shape[2] - a.nope, .v = a.v, .aligned = fits, .fp8 = a.fp8.k_scale > 0});
}

Result<FlashMlaArgs> flash_args(const MlaExpandedArgs& a, CudaStream& stream) {
  FlashMlaArgs f;
  ASSIGN(void* counter, stream.scratch(Scratch::kAttention, sizeof(unsigned)));
  f.seqs = {paged(a.seqs), 1, static_cast<int>(a.q.shape[0]), stream.device().sms(),
            static_cast<unsigned*>(counter)};
  f.q = a.q.data;
  f.q_stride = a.q.row_stride;
  f.kv = a.kv.data;
  f.kv_stride = a.kv.row_stride;
  f.k_rope = a.k_rope.data;
  f.k_rope_stride = a.k_rope.row_stride;
  f.k_start = a.k_start.data();
  f.rows = a.kv.shape[0];
  f.scale = a.scale;
  f.out = a.out.mutable_data();
  f.out_stride = a.out.row_stride;
  f.heads = static_cast<int>(a.q.shape[1]);
  return f;
}

Status expanded_by_prefill(const MlaExpandedArgs& a, CudaStream& stream) {
  ASSIGN(const FlashMlaArgs f, flash_args(a, stream));
  return status_of(flash_mla(f, stream.handle()), "flash_mla");
}

Status expanded_by_prefill_fp8(const MlaExpandedArgs& a, CudaStream& stream) {
  const View& room = a.fp8.room;
  if (!is_kv_scale(a.fp8.k_scale) || !is_kv_scale(a.fp8.v_scale))
    return invalid("mla_expanded: FP8 products with scales of {} and {}, not powers of two", a.fp8.k_scale,
                   a.fp8.v_scale);
  const i64 given = room ? room.bytes() : 0, needed = mla_expanded_room_bytes(a);
  if (given < needed || reinterpret_cast<std::uintptr_t>(room.data) % 128 != 0)
    return invalid("mla_expanded: FP8 products with a room of {} bytes; {} on a multiple of 128", given,
                   needed);
  FlashMlaFp8Args f;
  ASSIGN(f.mla, flash_args(a, stream));
  f.k_scale = a.fp8.k_scale;
  f.v_scale = a.fp8.v_scale;
  f.room = room.mutable_data();
  return status_of(flash_mla_fp8(f, stream.handle()), "flash_mla_fp8");
}

Status expanded_by_generic(const MlaExpandedArgs& a, CudaStream& stream) {
  MlaExpandedGenericArgs g;
  g.q = a.q.data;
  g.q_stride = a.q.row_stride;
  g.kv = a.kv.data;
  g.kv_stride = a.kv.row_stride;
  g.k_rope = a.k_rope.data;
  g.k_rope_stride = a.k_rope.row_stride;
  g.batch = paged(a.seqs);
  g.k_start = a.k_start.data();
  g.scale = a.scale;
  g.out = a.out.mutable_data();
  g.out_stride = a.out.row_stride;
  g.tokens = static_cast<int>(a.q.shape[0]);
  g.heads = static_cast<int>(a.q.shape[1]);
  g.nope = static_cast<int>(a.nope);
  g.rope = static_cast<int>(a.q.shape[2] - a.nope);
  g.v = static_cast<int>(a.v);
  return status_of(mla_expanded_generic(g, stream.handle()), "mla_expanded_generic");
}

}  // namespace

Status mla_expanded(const MlaExpandedArgs& a, Stream& s) {
  if (a.q.shape.rank != 3) return invalid("mla_expanded: q is {}", to_string(a.q.shape));
  const i64 tokens = a.q.shape[0], heads = a.q.shape[1], rope = a.q.shape[2] - a.nope;
  const i64 rows = a.kv.shape.rank == 3 ? a.kv.shape[0] : 0;
  if (a.nope <= 0 || a.v <= 0 || rope < 0)
    return invalid("mla_expanded: {} of {} columns without position, {} of value", a.nope, a.q.shape[2], a.v);
  TRY(check_heads(a.q, tokens, heads, a.nope + rope, "mla_expanded q"));
  TRY(check_heads(a.kv, rows, heads, a.nope + a.v, "mla_expanded kv"));
  TRY(check_matrix(a.k_rope, rows, rope, "mla_expanded k_rope"));
  TRY(check_heads(a.out, tokens, heads, a.v, "mla_expanded out"));
  TRY(check_dims({a.nope, rope}, "mla_expanded"));
  TRY(check_dims({a.v}, "mla_expanded values"));
  TRY(check_sequences(a.seqs, false, "mla_expanded sequences"));
  TRY(check_count(a.k_start, a.seqs.seqs() + 1, "mla_expanded k_start"));
  if (tokens == 0) return {};
  CudaStream& stream = cuda_stream(s);
  switch (expanded_kernel(a)) {
    case AttentionKernel::prefill:
      return expanded_by_prefill(a, stream);
    case AttentionKernel::prefill_fp8:
      return expanded_by_prefill_fp8(a, stream);
    default:
      return expanded_by_generic(a, stream);
  }
}

i64 mla_expanded_room_bytes(const MlaExpandedArgs& a) {
  if (expanded_kernel(a) != AttentionKernel::prefill_fp8) return 0;
  return flash_mla_fp8_room_bytes(a.kv.shape[0], a.seqs.seqs(), static_cast<int>(a.q.shape[1]));
}

}  // namespace trireme::cuda
