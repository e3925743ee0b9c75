#include "backends/cuda/attention.h"

#include <algorithm>

#include "backends/cuda/attention_views.h"
#include "backends/cuda/cuda_device.h"
#include "backends/cuda/heuristics/attention_choice.h"
#include "backends/cuda/sm90/flash_prefill/flash_prefill.h"
#include "backends/cuda/sm90/gqa_decode/gqa_decode.h"
#include "backends/cuda/sm90/mla_decode/mla_decode.h"

namespace trireme::cuda {
namespace {

Status check_cache(const KvCacheLayer& c, KvLayout::Kind kind, const char* what) {
  const KvLayout& l = c.layout;
  if (l.kind != kind) return invalid("{}: the KV cache has another layout than this attention", what);
  const bool fp8 = kind == KvLayout::Kind::kMla && l.dtype == DType::kF8E4M3;
  if (l.dtype != DType::kBF16 && !fp8)
    return fail(ErrorCode::kUnsupported, "{}: a KV cache of {}", what, to_string(l.dtype));
  if (fp8 && l.latent_dim % 8 != 0)
    return fail(ErrorCode::kUnsupported, "{}: an FP8 cache of {} latents; multiples of 8", what,
                l.latent_dim);
  if (fp8 && !is_kv_scale(c.latent_scale))
    return invalid("{}: an FP8 cache with a scale of {}, not a power of two", what, c.latent_scale);
  if (c.data == nullptr || c.blocks <= 0) return invalid("{}: the KV cache is empty", what);
  if (c.blocks > INT32_MAX / kKvBlockTokens)
    return fail(ErrorCode::kUnsupported, "{}: a KV cache of {} blocks", what, c.blocks);
  return {};
}

i64 bound_tokens(const SeqBatch& s, i64 tokens) { return s.max_tokens > 0 ? s.max_tokens : tokens; }
i64 bound_context(const SeqBatch& s) {
  return s.max_context > 0 ? s.max_context : s.max_blocks * kKvBlockTokens;
}

i64 round_256(i64 bytes) { return round_up(bytes, 256); }

MlaDecodeShape decode_shape(const SeqBatch& s, i64 tokens, i64 heads, const CudaDevice& device) {
  return {.heads = static_cast<int>(heads),
          .seqs = s.seqs(),
          .tokens = static_cast<int>(tokens),
          .max_query_tokens = static_cast<int>(bound_tokens(s, tokens)),
          .multiprocessors = device.sms(),
          .split = device.deterministic() ? MlaSplit::never : MlaSplit::balanced};
}

MlaCodeRoom code_room(const void* at, i64 rows) {
  char* const to = static_cast<char*>(const_cast<void*>(at));
  return {to, reinterpret_cast<float*>(to + rows * kMlaQueryRow)};
}

Status plan_into(const SeqBatch& s, const MlaDecodeShape& shape, void* plan, cudaStream_t stream) {
  MlaDecodePlanArgs p;
  p.shape = shape;
  p.q_start = s.q_start.data();
  p.context_len = s.context_len.data();
  p.block_table = s.block_table.data();
  p.block_table_stride = s.max_blocks;
  p.plan = plan;
  return status_of(mla_decode_plan(p, stream), "mla_decode_plan");
}

// made: where mla_query left codes.
Status absorbed_decode(const MlaAbsorbedArgs& a, const std::optional<MlaCodeRoom>& made, CudaStream& stream) {
  const i64 rows = a.q_latent.shape[0] * a.q_latent.shape[1];
  const MlaDecodeShape shape =
      decode_shape(a.seqs, a.q_latent.shape[0], a.q_latent.shape[1], stream.device());
  const bool fp8 = a.cache.layout.dtype == DType::kF8E4M3;
  const i64 plan_bytes = a.seqs.plan ? 0 : round_256(static_cast<i64>(mla_decode_plan_bytes(shape)));
  const i64 work_bytes = round_256(static_cast<i64>(mla_decode_workspace_bytes(shape)));
  const i64 query_bytes = fp8 && !made ? rows * (kMlaQueryRow + 4) : 0;
  ASSIGN(void* scratch, stream.scratch(Scratch::kAttention, plan_bytes + work_bytes + query_bytes));
  if (a.seqs.plan == nullptr) TRY(plan_into(a.seqs, shape, scratch, stream.handle()));
  MlaDecodeArgs d;
  d.shape = shape;
  d.plan = a.seqs.plan ? a.seqs.plan : scratch;
  d.q_latent = a.q_latent.data;
  d.q_latent_stride = a.q_latent.row_stride;
  d.q_rope = a.q_rope.data;
  d.q_rope_stride = a.q_rope.row_stride;
  d.cache = a.cache.data;
  if (fp8) {
    const MlaCodeRoom q =
        made ? *made : code_room(static_cast<char*>(scratch) + plan_bytes + work_bytes, rows);
    if (!made)
      CUDA_TRY(mla_query_rows({a.q_latent.data, a.q_latent.row_stride, a.q_rope.data, a.q_rope.row_stride,
                               rows, a.cache.latent_scale, q.rows, q.scale},
                              stream.handle()));
    d.q_rows = q.rows;
    d.q_scale = q.scale;
  }
  d.cache_type = fp8 ? MlaCache::fp8 : MlaCache::bf16;
  d.latent_scale = a.cache.latent_scale;
  d.blocks = a.cache.blocks;
  d.block_table = a.seqs.block_table.data();
  d.block_table_stride = a.seqs.max_blocks;
  d.scale = a.scale;
  d.out = a.out.mutable_data();
  d.out_stride = a.out.row_stride;
  d.workspace = static_cast<char*>(scratch) + plan_bytes;
  return status_of(mla_decode(d, stream.handle()), "mla_decode");
}

Status gqa_by_decode(const GqaAttentionArgs& a, CudaStream& stream) {
  const i64 tokens = a.q.shape[0];
  GqaDecodeArgs d;
  d.q = a.q.data;
  d.q_stride = a.q.row_stride;
  d.batch = paged(a.seqs);
  d.max_tokens = static_cast<int>(std::min<i64>(bound_tokens(a.seqs, tokens), kDecodeTokens));
  d.max_context = bound_context(a.seqs);
  d.cache = a.cache.data;
  d.scale = a.scale;
  d.window = static_cast<int>(a.window);
  d.out = a.out.mutable_data();
  d.out_stride = a.out.row_stride;
  d.tokens = static_cast<int>(tokens);
  d.heads = static_cast<int>(a.q.shape[1]);
  d.kv_heads = a.cache.layout.kv_heads;
  d.dim = a.cache.layout.head_dim;
  d.sms = stream.device().sms();
  ASSIGN(d.workspace, stream.scratch(Scratch::kAttention, gqa_decode_workspace_bytes(d)));
  return status_of(gqa_decode(d, stream.handle()), "gqa_decode");
}

Status gqa_by_prefill(const GqaAttentionArgs& a, int min_tokens, CudaStream& stream) {
  FlashGqaArgs f;
  f.seqs = {paged(a.seqs), min_tokens, static_cast<int>(a.q.shape[0]), stream.device().sms(), nullptr};
  ASSIGN(void* counter, stream.scratch(Scratch::kAttention, sizeof(unsigned)));
  f.seqs.counter = static_cast<unsigned*>(counter);
  f.q = a.q.data;
  f.q_stride = a.q.row_stride;
  f.cache = a.cache.data;
  f.blocks = a.cache.blocks;
  f.scale = a.scale;
  f.window = static_cast<int>(a.window);
  f.out = a.out.mutable_data();
  f.out_stride = a.out.row_stride;
  f.heads = static_cast<int>(a.q.shape[1]);
  f.kv_heads = a.cache.layout.kv_heads;
  f.dim = a.cache.layout.head_dim;
  return status_of(flash_gqa(f, stream.handle()), "flash_gqa");
}

Status gqa_by_generic(const GqaAttentionArgs& a, CudaStream& stream) {
  GqaGenericArgs g;
  g.q = a.q.data;
  g.q_stride = a.q.row_stride;
  g.batch = paged(a.seqs);
  g.cache = a.cache.data;
  g.scale = a.scale;
  g.window = static_cast<int>(a.window);
  g.out = a.out.mutable_data();
  g.out_stride = a.out.row_stride;
  g.tokens = static_cast<int>(a.q.shape[0]);
  g.heads = static_cast<int>(a.q.shape[1]);
  g.kv_heads = a.cache.layout.kv_heads;
  g.dim = a.cache.layout.head_dim;
  return status_of(gqa_generic(g, stream.handle()), "gqa_generic");
}

bool planned(const KvLayout& l, i64 heads, i64 seqs) {
  return l.kind == KvLayout::Kind::kMla &&
         choose_mla_absorbed(
             {.heads = static_cast<int>(heads), .latent = l.latent_dim, .rope = l.rope_dim, .seqs = seqs}) ==
             AttentionKernel::decode;
}

}  // namespace

std::optional<MlaCodeRoom> mla_code_room(const KvLayout& l, i64 seqs, const ConstView& room,
                                         const ConstView& q_rope) {
  const i64 rows = room.shape[0] * room.shape[1];
  static_assert(kMlaQueryRow + 4 <= 2 * 512);
  const bool codes = l.dtype == DType::kF8E4M3 && planned(l, room.shape[1], seqs) && aligned(room) &&
                     aligned(q_rope) && room.row_stride == l.latent_dim;
  if (!codes) return std::nullopt;
  return code_room(room.data, rows);
}

Status mla_absorbed(const MlaAbsorbedArgs& a, Stream& s) {
  TRY(check_cache(a.cache, KvLayout::Kind::kMla, "mla_absorbed"));
  const KvLayout& l = a.cache.layout;
  if (a.q_latent.shape.rank != 3) return invalid("mla_absorbed: q_latent is {}", to_string(a.q_latent.shape));
  const i64 tokens = a.q_latent.shape[0], heads = a.q_latent.shape[1];
  TRY(check_heads(a.q_latent, tokens, heads, l.latent_dim, "mla_absorbed q_latent"));
  TRY(check_heads(a.q_rope, tokens, heads, l.rope_dim, "mla_absorbed q_rope"));
  TRY(check_heads(a.out, tokens, heads, l.latent_dim, "mla_absorbed out"));
  TRY(check_dims({l.latent_dim, l.rope_dim}, "mla_absorbed"));
  TRY(check_sequences(a.seqs, true, "mla_absorbed sequences"));
  if (tokens == 0) return {};
  CudaStream& stream = cuda_stream(s);
  const bool fits = aligned(a.q_latent) && aligned(a.q_rope) && aligned(a.out);
  const auto codes = a.made ? mla_code_room(l, a.seqs.seqs(), a.q_latent, a.q_rope) : std::nullopt;
  if (fits && planned(l, heads, a.seqs.seqs())) return absorbed_decode(a, codes, stream);
  if (codes) return invalid("mla_absorbed: out does not lie on 16 bytes");
  MlaAbsorbedGenericArgs g;
  g.q_latent = a.q_latent.data;
  g.q_latent_stride = a.q_latent.row_stride;
  g.q_rope = a.q_rope.data;
  g.q_rope_stride = a.q_rope.row_stride;
  g.batch = paged(a.seqs);
  g.cache = a.cache.data;
  g.fp8 = l.dtype == DType::kF8E4M3;
  g.latent_scale = a.cache.latent_scale;
  g.scale = a.scale;
  g.out = a.out.mutable_data();
  g.out_stride = a.out.row_stride;
  g.tokens = static_cast<int>(tokens);
  g.heads = static_cast<int>(heads);
  g.latent = l.latent_dim;
  g.rope = l.rope_dim;
  return status_of(mla_absorbed_generic(g, stream.handle()), "mla_absorbed_generic");
}

Status mla_gather(const MlaGatherArgs& a, Stream& s) {
  TRY(check_cache(a.cache, KvLayout::Kind::kMla, "mla_gather"));
  const KvLayout& l = a.cache.layout;
  const i64 rows = a.latent.shape.rows();
  TRY(check_matrix(a.latent, rows, l.latent_dim, "mla_gather latent"));
  TRY(check_matrix(a.rope, rows, l.rope_dim, "mla_gather rope"));
  TRY(check_dims({l.latent_dim, l.rope_dim}, "mla_gather"));
  TRY(check_sequences(a.seqs, true, "mla_gather sequences"));
  TRY(check_count(a.k_start, a.seqs.seqs() + 1, "mla_gather k_start"));
  MlaGatherKernelArgs g;
  g.batch = paged(a.seqs);
  g.k_start = a.k_start.data();
  g.cache = a.cache.data;
  g.fp8 = l.dtype == DType::kF8E4M3;
  g.latent_scale = a.cache.latent_scale;
  g.latent_out = a.latent.mutable_data();
  g.latent_stride = a.latent.row_stride;
  g.rope_out = a.rope.mutable_data();
  g.rope_stride = a.rope.row_stride;
  g.rows = static_cast<int>(rows);
  g.latent = l.latent_dim;
  g.rope = l.rope_dim;
  return status_of(mla_gather_kernel(g, handle_of(s)), "mla_gather_kernel");
}

Status gqa_attention(const GqaAttentionArgs& a, Stream& s) {
  TRY(check_cache(a.cache, KvLayout::Kind::kGqa, "gqa_attention"));
  const KvLayout& l = a.cache.layout;
  if (a.q.shape.rank != 3) return invalid("gqa_attention: q is {}", to_string(a.q.shape));
  const i64 tokens = a.q.shape[0], heads = a.q.shape[1];
  if (l.kv_heads <= 0 || heads % l.kv_heads != 0)
    return invalid("gqa_attention: {} heads over {}", heads, l.kv_heads);
  if (a.window < 0 || a.window > INT32_MAX) return invalid("gqa_attention: a window of {}", a.window);
  TRY(check_heads(a.q, tokens, heads, l.head_dim, "gqa_attention q"));
  TRY(check_heads(a.out, tokens, heads, l.head_dim, "gqa_attention out"));
  TRY(check_dims({l.head_dim}, "gqa_attention"));
  TRY(check_sequences(a.seqs, true, "gqa_attention sequences"));
  if (tokens == 0) return {};
  CudaStream& stream = cuda_stream(s);
  switch (choose_gqa({.heads = static_cast<int>(heads),
                      .kv_heads = l.kv_heads,
                      .dim = l.head_dim,
                      .seqs = a.seqs.seqs(),
                      .max_tokens = bound_tokens(a.seqs, tokens),
                      .aligned = aligned(a.q) && aligned(a.out),
                      .deterministic = stream.device().deterministic()})) {
    case AttentionKernel::decode:
      return gqa_by_decode(a, stream);
    case AttentionKernel::prefill:
      return gqa_by_prefill(a, 1, stream);
    case AttentionKernel::decode_and_prefill:
      TRY(gqa_by_decode(a, stream));
      return gqa_by_prefill(a, kDecodeTokens + 1, stream);
    case AttentionKernel::prefill_fp8:  // never for this attention
    case AttentionKernel::generic:
      break;
  }
  return gqa_by_generic(a, stream);
}

i64 attention_plan_bytes(const PlanAttentionArgs& a, const CudaDevice& device) {
  if (!planned(a.layout, a.heads, a.seqs.seqs())) return 0;
  return static_cast<i64>(mla_decode_plan_bytes(decode_shape(a.seqs, a.tokens, a.heads, device)));
}

Status plan_attention(const PlanAttentionArgs& a, Stream& s) {
  if (!planned(a.layout, a.heads, a.seqs.seqs())) return {};
  if (a.plan == nullptr) return invalid("plan_attention without memory for the plan");
  TRY(check_sequences(a.seqs, true, "plan_attention sequences"));
  const CudaDevice& device = cuda_stream(s).device();
  return plan_into(a.seqs, decode_shape(a.seqs, a.tokens, a.heads, device), a.plan, handle_of(s));
}

}  // namespace trireme::cuda
