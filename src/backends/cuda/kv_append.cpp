// Rotary embedding and the writers of the KV cache: the part of elementwise.h that knows cache layouts.
#include "backends/cuda/cuda_device.h"
#include "backends/cuda/elementwise.h"
#include "backends/cuda/smxx/rope_append.h"
#include "backends/cuda/views_check.h"

namespace trireme::cuda {
namespace {

constexpr i64 kMaxRopeDim = 256;

const u16* bits(const ConstView& v, i64 column = 0) { return static_cast<const u16*>(v.data) + column; }
u16* bits(const View& v, i64 column = 0) { return static_cast<u16*>(v.mutable_data()) + column; }

Status check_table(const ConstView& cos_sin, i64 dim, In<i32> positions, i64 tokens, const char* what) {
  TRY(check_count(positions, tokens, what));
  if (dim <= 0 || dim % 2 != 0) return invalid("{}: {} values to rotate", what, dim);
  if (dim > kMaxRopeDim)
    return fail(ErrorCode::kUnsupported, "{}: {} values to rotate; at most {}", what, dim, kMaxRopeDim);
  if (cos_sin.data == nullptr || cos_sin.dtype != DType::kF32 || cos_sin.shape.cols() != dim)
    return invalid("{}: cos_sin is not float32 with {} columns", what, dim);
  return {};
}

smxx::RopeTable table(const ConstView& cos_sin, In<i32> positions, bool interleaved) {
  return {.cos_sin = static_cast<const float*>(cos_sin.data),
          .stride = cos_sin.row_stride,
          .max_position = cos_sin.shape.rows(),
          .positions = positions.data(),
          .dim = static_cast<int>(cos_sin.shape.cols()),
          .interleaved = interleaved};
}

Status check_cache(const KvCacheLayer& c, KvLayout::Kind kind) {
  if (c.layout.kind != kind) return invalid("the KV cache has another layout than this attention");
  if (c.data == nullptr || c.blocks <= 0) return invalid("the KV cache is empty");
  const bool fp8 = kind == KvLayout::Kind::kMla && c.layout.dtype == DType::kF8E4M3;
  if (c.layout.dtype != DType::kBF16 && !fp8)
    return fail(ErrorCode::kUnsupported, "a KV cache of {}; use bfloat16, or float8_e4m3 with MLA",
                to_string(c.layout.dtype));
  if (fp8 && (c.layout.latent_dim % 8 != 0 || c.layout.rope_dim % 2 != 0))
    return fail(ErrorCode::kUnsupported, "an FP8 KV cache of {} + {} values; multiples of 8 and of 2",
                c.layout.latent_dim, c.layout.rope_dim);
  if (fp8 && !is_kv_scale(c.latent_scale))
    return invalid("an FP8 KV cache whose latents have a scale of {}, not a power of two", c.latent_scale);
  if (c.layout.latent_dim > smxx::kMaxLatent)
    return fail(ErrorCode::kUnsupported, "latents of {} values; at most {}", c.layout.latent_dim,
                smxx::kMaxLatent);
  return {};
}

smxx::MlaCache mla_cache(const KvCacheLayer& c, In<i32> slots) {
  return {.data = static_cast<char*>(c.data),
          .token_bytes = c.layout.token_bytes(),
          .fp8 = c.layout.dtype == DType::kF8E4M3,
          .codes_per_value = 1 / c.latent_scale,
          .slots = slots.data()};
}

}  // namespace

Status rope(const RopeArgs& a, Stream& stream) {
  TRY(check_act(a.x, "rope x"));
  if (a.x.shape.rank != 3) return invalid("rope: x is {}, not [tokens, heads, dim]", to_string(a.x.shape));
  TRY(check_table(a.cos_sin, a.dim, a.positions, a.x.shape[0], "rope positions"));
  if (a.offset < 0 || a.offset + a.dim > a.x.shape.cols())
    return invalid("rope: {} values at {} of rows of {}", a.dim, a.offset, a.x.shape.cols());
  return status_of(smxx::rope({.x = bits(a.x, a.offset),
                               .head_stride = a.x.row_stride,
                               .tokens = a.x.shape[0],
                               .heads = a.x.shape[1],
                               .table = table(a.cos_sin, a.positions, a.interleaved)},
                              handle_of(stream)),
                   "rope");
}

Status mla_append(const MlaAppendArgs& a, Stream& stream) {
  TRY(check_cache(a.cache, KvLayout::Kind::kMla));
  const KvLayout& l = a.cache.layout;
  const i64 tokens = static_cast<i64>(a.slots.size());
  TRY(check_matrix(a.latent, tokens, l.latent_dim, "mla_append latent"));
  TRY(check_matrix(a.rope, tokens, l.rope_dim, "mla_append rope"));
  return status_of(smxx::mla_append({.latent = bits(a.latent),
                                     .latent_stride = a.latent.row_stride,
                                     .key = bits(a.rope),
                                     .key_stride = a.rope.row_stride,
                                     .latent_dim = l.latent_dim,
                                     .rope_dim = l.rope_dim,
                                     .tokens = tokens,
                                     .cache = mla_cache(a.cache, a.slots)},
                                    handle_of(stream)),
                   "mla_append");
}

Status mla_rope_append(const MlaRopeAppendArgs& a, Stream& stream) {
  TRY(check_cache(a.cache, KvLayout::Kind::kMla));
  const KvLayout& l = a.cache.layout;
  const i64 tokens = static_cast<i64>(a.slots.size());
  if (a.q.shape.rank != 3 || a.nope < 0)
    return invalid("mla_rope_append: q is {} with {} values without position", to_string(a.q.shape), a.nope);
  TRY(check_heads(a.q, tokens, a.q.shape[1], a.nope + l.rope_dim, "mla_rope_append q"));
  TRY(check_matrix(a.kv_a, tokens, i64{l.latent_dim} + l.rope_dim, "mla_rope_append kv_a"));
  TRY(check_weight(a.norm, l.latent_dim, "mla_rope_append norm"));
  TRY(check_table(a.cos_sin, l.rope_dim, a.positions, tokens, "mla_rope_append positions"));
  return status_of(smxx::mla_append({.q = bits(a.q, a.nope),
                                     .q_head_stride = a.q.row_stride,
                                     .heads = a.q.shape[1],
                                     .latent = bits(a.kv_a),
                                     .latent_stride = a.kv_a.row_stride,
                                     .key = bits(a.kv_a, l.latent_dim),
                                     .key_stride = a.kv_a.row_stride,
                                     .norm = a.norm.data,
                                     .norm_bf16 = a.norm.dtype == DType::kBF16,
                                     .eps = a.eps,
                                     .latent_dim = l.latent_dim,
                                     .rope_dim = l.rope_dim,
                                     .tokens = tokens,
                                     .table = table(a.cos_sin, a.positions, a.interleaved),
                                     .cache = mla_cache(a.cache, a.slots)},
                                    handle_of(stream)),
                   "mla_rope_append");
}

Status gqa_append(const GqaAppendArgs& a, Stream& stream) {
  TRY(check_cache(a.cache, KvLayout::Kind::kGqa));
  const KvLayout& l = a.cache.layout;
  const i64 tokens = static_cast<i64>(a.slots.size());
  TRY(check_heads(a.k, tokens, l.kv_heads, l.head_dim, "gqa_append k"));
  TRY(check_heads(a.v, tokens, l.kv_heads, l.head_dim, "gqa_append v"));
  return status_of(smxx::gqa_append({.k = const_cast<u16*>(bits(a.k)),  // written only with a table
                                     .k_head_stride = a.k.row_stride,
                                     .v = bits(a.v),
                                     .v_head_stride = a.v.row_stride,
                                     .kv_heads = l.kv_heads,
                                     .head_dim = l.head_dim,
                                     .tokens = tokens,
                                     .cache = static_cast<char*>(a.cache.data),
                                     .slots = a.slots.data()},
                                    handle_of(stream)),
                   "gqa_append");
}

Status gqa_rope_append(const GqaRopeAppendArgs& a, Stream& stream) {
  TRY(check_cache(a.cache, KvLayout::Kind::kGqa));
  const KvLayout& l = a.cache.layout;
  const i64 tokens = static_cast<i64>(a.slots.size());
  if (a.q.shape.rank != 3) return invalid("gqa_rope_append: q is {}", to_string(a.q.shape));
  TRY(check_heads(a.q, tokens, a.q.shape[1], l.head_dim, "gqa_rope_append q"));
  TRY(check_heads(a.k, tokens, l.kv_heads, l.head_dim, "gqa_rope_append k"));
  TRY(check_heads(a.v, tokens, l.kv_heads, l.head_dim, "gqa_rope_append v"));
  TRY(check_table(a.cos_sin, l.head_dim, a.positions, tokens, "gqa_rope_append positions"));
  return status_of(smxx::gqa_append({.q = bits(a.q),
                                     .q_head_stride = a.q.row_stride,
                                     .heads = a.q.shape[1],
                                     .k = bits(a.k),
                                     .k_head_stride = a.k.row_stride,
                                     .v = bits(a.v),
                                     .v_head_stride = a.v.row_stride,
                                     .kv_heads = l.kv_heads,
                                     .head_dim = l.head_dim,
                                     .tokens = tokens,
                                     .table = table(a.cos_sin, a.positions, false),
                                     .cache = static_cast<char*>(a.cache.data),
                                     .slots = a.slots.data()},
                                    handle_of(stream)),
                   "gqa_rope_append");
}

}  // namespace trireme::cuda
