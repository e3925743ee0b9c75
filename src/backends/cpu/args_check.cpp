#include "backends/cpu/args_check.h"

#include <algorithm>

namespace trireme::cpu {
namespace {

Status activations(const ConstView& v, const char* what) {
  if (v.dtype != DType::kF32)
    return invalid("{} is {}; this backend's activations are float32", what, to_string(v.dtype));
  if (v.data == nullptr && v.shape.elements() > 0) return invalid("{} is empty", what);
  if (v.row_stride < v.shape.cols())
    return invalid("{} has rows of {} with a stride of {}", what, v.shape.cols(), v.row_stride);
  return {};
}

Status matrix(const ConstView& v, i64 rows, i64 cols, const char* what) {
  TRY(activations(v, what));
  if (v.shape.rows() != rows || v.shape.cols() != cols) {
    return invalid("{} is {}, not {} rows of {}", what, to_string(v.shape), rows, cols);
  }
  return {};
}

Status heads3(const ConstView& v, i64 tokens, i64 heads, i64 dim, const char* what) {
  TRY(activations(v, what));
  if (v.shape != Shape{tokens, heads, dim}) {
    return invalid("{} is {}, not [{}, {}, {}]", what, to_string(v.shape), tokens, heads, dim);
  }
  return {};
}

template <class T>
Status count(std::span<T> s, i64 n, const char* what) {
  if (static_cast<i64>(s.size()) != n) return invalid("{} has {} entries, not {}", what, s.size(), n);
  return {};
}

Status in_range(In<i32> s, i64 end, const char* what, i32 least = 0) {
  for (const i32 v : s)
    if (v < least || v >= end) return invalid("{}: {} is outside [{}, {})", what, v, least, end);
  return {};
}

Status cache(const KvCacheLayer& c, KvLayout::Kind kind) {
  if (c.layout.kind != kind) return invalid("the KV cache has another layout than this attention");
  if (c.layout.dtype != DType::kF32 && c.layout.dtype != DType::kBF16) {
    return fail(ErrorCode::kUnsupported, "a KV cache of {}; use float32 or bfloat16",
                to_string(c.layout.dtype));
  }
  if (c.data == nullptr || c.blocks <= 0) return invalid("the KV cache is empty");
  if (c.layout.token_elements() % 2 != 0)
    return fail(ErrorCode::kUnsupported, "an odd number of values per cached token");
  return {};
}

Status sequences(const SeqBatch& s, i64 tokens) {
  const i64 n = s.seqs();
  TRY(count(s.q_start, n + 1, "q_start"));
  if (s.q_start[0] != 0 || s.q_start[n] != tokens)
    return invalid("q_start does not span the {} new tokens", tokens);
  for (i64 i = 0; i < n; ++i) {
    const i32 fresh = s.q_start[i + 1] - s.q_start[i];
    if (fresh < 0 || s.context_len[i] < fresh) {
      return invalid("sequence {} has {} new tokens and a context of {}", i, fresh, s.context_len[i]);
    }
  }
  return {};
}

Status blocks(const SeqBatch& s, i64 blocks_in_cache) {
  TRY(count(s.block_table, s.seqs() * s.max_blocks, "block_table"));
  for (i64 i = 0; i < s.seqs(); ++i) {
    const i64 used = ceil_div(s.context_len[i], kKvBlockTokens);
    if (used > s.max_blocks)
      return invalid("sequence {} needs {} blocks of at most {}", i, used, s.max_blocks);
    TRY(in_range(
        s.block_table.subspan(static_cast<std::size_t>(i * s.max_blocks), static_cast<std::size_t>(used)),
        blocks_in_cache, "block_table"));
  }
  return {};
}

Status context_rows(const SeqBatch& s, In<i32> k_start) {
  TRY(count(k_start, s.seqs() + 1, "k_start"));
  if (k_start[0] != 0) return invalid("k_start begins at {}", k_start[0]);
  for (i64 i = 0; i < s.seqs(); ++i) {
    if (k_start[i + 1] - k_start[i] != s.context_len[i])
      return invalid("k_start of sequence {} is not its context", i);
  }
  return {};
}

Status prepared(const LinearWeight& w) {
  if (w.packed == nullptr) return invalid("a weight of [{}, {}] was not prepared", w.n, w.k);
  return {};
}

Status norm_weight(const ConstView& w, i64 n, const char* what) {
  if (w.dtype != DType::kF32 && w.dtype != DType::kBF16) {
    return fail(ErrorCode::kUnsupported, "{} of {}; use float32 or bfloat16", what, to_string(w.dtype));
  }
  if (w.data == nullptr || w.shape.cols() != n)
    return invalid("{} has {} columns, not {}", what, w.shape.cols(), n);
  return {};
}

}  // namespace

Status check(const EmbeddingArgs& a) {
  TRY(norm_weight(a.table, a.out.shape.cols(), "the embedding table"));
  TRY(matrix(a.out, static_cast<i64>(a.ids.size()), a.table.shape.cols(), "embedding out"));
  return in_range(a.ids, a.table.shape.rows(), "token id");
}

Status check(const RmsNormArgs& a) {
  TRY(activations(a.x, "rms_norm x"));
  TRY(norm_weight(a.weight, a.x.shape.cols(), "the norm's weight"));
  return matrix(a.out, a.x.shape.rows(), a.x.shape.cols(), "rms_norm out");
}

Status check(const AddArgs& a) {
  TRY(activations(a.x, "add x"));
  return matrix(a.y, a.x.shape.rows(), a.x.shape.cols(), "add y");
}

Status check(const LinearArgs& a) {
  if (a.w == nullptr) return invalid("linear without a weight");
  TRY(prepared(*a.w));
  TRY(activations(a.x, "linear x"));
  if (a.x.shape.cols() != a.w->k)
    return invalid("linear: x has {} columns, the weight {}", a.x.shape.cols(), a.w->k);
  if (a.residual) TRY(matrix(a.residual, a.x.shape.rows(), a.w->n, "linear residual"));
  return matrix(a.out, a.x.shape.rows(), a.w->n, "linear out");
}

Status check(const HeadLinearArgs& a) {
  if (!a.w || a.w->each.empty() || a.x.shape.rank != 3) return invalid("head_linear: no heads");
  TRY(heads3(a.x, a.x.shape[0], a.w->count(), a.w->k, "head_linear x"));
  TRY(heads3(a.out, a.x.shape[0], a.w->count(), a.w->n, "head_linear out"));
  for (const auto& w : a.w->each) {
    TRY(prepared(w));
    if (w.n != a.w->n || w.k != a.w->k) return invalid("head_linear: heads of different shapes");
  }
  return {};
}

Status check(const SwigluArgs& a) {
  TRY(activations(a.gate_up, "swiglu gate_up"));
  return matrix(a.out, a.gate_up.shape.rows(), a.gate_up.shape.cols() / 2, "swiglu out");
}

Status check(const RopeArgs& a) {
  TRY(activations(a.x, "rope x"));
  if (a.x.shape.rank != 3) return invalid("rope: x is {}, not [tokens, heads, dim]", to_string(a.x.shape));
  TRY(count(a.positions, a.x.shape[0], "rope positions"));
  if (a.dim <= 0 || a.dim % 2 != 0 || a.offset < 0 || a.offset + a.dim > a.x.shape.cols()) {
    return invalid("rope: {} values at {} of rows of {}", a.dim, a.offset, a.x.shape.cols());
  }
  if (a.cos_sin.dtype != DType::kF32 || a.cos_sin.shape.cols() != a.dim) {
    return invalid("rope: cos_sin is not float32 with {} columns", a.dim);
  }
  return in_range(a.positions, a.cos_sin.shape.rows(), "position");
}

Status check(const MlaAppendArgs& a) {
  TRY(cache(a.cache, KvLayout::Kind::kMla));
  const i64 tokens = static_cast<i64>(a.slots.size());
  TRY(matrix(a.latent, tokens, a.cache.layout.latent_dim, "mla_append latent"));
  TRY(matrix(a.rope, tokens, a.cache.layout.rope_dim, "mla_append rope"));
  return in_range(a.slots, a.cache.blocks * kKvBlockTokens, "slot");
}

Status check(const GqaAppendArgs& a) {
  TRY(cache(a.cache, KvLayout::Kind::kGqa));
  const i64 tokens = static_cast<i64>(a.slots.size());
  TRY(heads3(a.k, tokens, a.cache.layout.kv_heads, a.cache.layout.head_dim, "gqa_append k"));
  TRY(heads3(a.v, tokens, a.cache.layout.kv_heads, a.cache.layout.head_dim, "gqa_append v"));
  return in_range(a.slots, a.cache.blocks * kKvBlockTokens, "slot");
}

Status check(const MlaAbsorbedArgs& a) {
  TRY(cache(a.cache, KvLayout::Kind::kMla));
  if (a.made) return invalid("mla_absorbed: this backend makes no queries");
  const auto& l = a.cache.layout;
  if (a.q_latent.shape.rank != 3) return invalid("mla_absorbed: q_latent is {}", to_string(a.q_latent.shape));
  const i64 tokens = a.q_latent.shape[0], heads = a.q_latent.shape[1];
  TRY(heads3(a.q_latent, tokens, heads, l.latent_dim, "mla_absorbed q_latent"));
  TRY(heads3(a.q_rope, tokens, heads, l.rope_dim, "mla_absorbed q_rope"));
  TRY(heads3(a.out, tokens, heads, l.latent_dim, "mla_absorbed out"));
  TRY(sequences(a.seqs, tokens));
  return blocks(a.seqs, a.cache.blocks);
}

Status check(const MlaGatherArgs& a) {
  TRY(cache(a.cache, KvLayout::Kind::kMla));
  TRY(context_rows(a.seqs, a.k_start));
  const i64 rows = a.k_start.back();
  TRY(matrix(a.latent, rows, a.cache.layout.latent_dim, "mla_gather latent"));
  TRY(matrix(a.rope, rows, a.cache.layout.rope_dim, "mla_gather rope"));
  return blocks(a.seqs, a.cache.blocks);
}

Status check(const MlaExpandedArgs& a) {
  if (a.q.shape.rank != 3) return invalid("mla_expanded: q is {}", to_string(a.q.shape));
  const i64 tokens = a.q.shape[0], heads = a.q.shape[1], rope = a.q.shape[2] - a.nope;
  if (a.nope <= 0 || a.v <= 0 || rope < 0 || a.nope % 2 != 0 || rope % 2 != 0) {
    return invalid("mla_expanded: {} of {} columns without position, {} of value", a.nope, a.q.shape[2], a.v);
  }
  TRY(sequences(a.seqs, tokens));
  TRY(context_rows(a.seqs, a.k_start));
  TRY(heads3(a.q, tokens, heads, a.nope + rope, "mla_expanded q"));
  TRY(heads3(a.kv, a.k_start.back(), heads, a.nope + a.v, "mla_expanded kv"));
  TRY(matrix(a.k_rope, a.k_start.back(), rope, "mla_expanded k_rope"));
  return heads3(a.out, tokens, heads, a.v, "mla_expanded out");
}

Status check(const GqaAttentionArgs& a) {
  TRY(cache(a.cache, KvLayout::Kind::kGqa));
  const auto& l = a.cache.layout;
  if (a.q.shape.rank != 3) return invalid("gqa_attention: q is {}", to_string(a.q.shape));
  const i64 tokens = a.q.shape[0], heads = a.q.shape[1];
  if (l.kv_heads <= 0 || heads % l.kv_heads != 0)
    return invalid("gqa_attention: {} heads over {}", heads, l.kv_heads);
  if (l.head_dim % 2 != 0) return fail(ErrorCode::kUnsupported, "an odd head_dim of {}", l.head_dim);
  if (a.window < 0) return invalid("gqa_attention: a window of {}", a.window);
  TRY(heads3(a.q, tokens, heads, l.head_dim, "gqa_attention q"));
  TRY(heads3(a.out, tokens, heads, l.head_dim, "gqa_attention out"));
  TRY(sequences(a.seqs, tokens));
  return blocks(a.seqs, a.cache.blocks);
}

Status check(const MoeGateArgs& a) {
  TRY(activations(a.logits, "moe_gate logits"));
  const i64 tokens = a.logits.shape.rows(), experts = a.logits.shape.cols();
  if (a.bias && (a.bias.dtype != DType::kF32 || a.bias.shape.elements() != experts)) {
    return invalid("moe_gate: the bias is not {} of float32", experts);
  }
  if (a.groups < 1 || experts % a.groups != 0 || a.top_groups < 1 || a.top_groups > a.groups) {
    return invalid("moe_gate: {} of {} groups over {} experts", a.top_groups, a.groups, experts);
  }
  if (a.top_k < 1 || a.top_k > experts / a.groups * a.top_groups) {
    return invalid("moe_gate: {} experts to choose from {} groups of {}", a.top_k, a.top_groups,
                   experts / a.groups);
  }
  if (!a.place.empty()) TRY(count(a.place, experts, "moe_gate place"));
  TRY(count(a.expert, tokens * a.top_k, "moe_gate expert"));
  return count(a.weight, tokens * a.top_k, "moe_gate weight");
}

Status check(const MoePermuteArgs& a) {
  TRY(activations(a.x, "moe_permute x"));
  if (a.top_k < 1 || a.experts < 1) return invalid("moe_permute: {} of {} experts", a.top_k, a.experts);
  const i64 pairs = a.x.shape.rows() * a.top_k;
  TRY(count(a.expert, pairs, "moe_permute expert"));
  TRY(count(a.row_of, pairs, "moe_permute row_of"));
  TRY(count(a.expert_end, a.experts, "moe_permute expert_end"));
  TRY(matrix(a.rows, pairs, a.x.shape.cols(), "moe_permute rows"));
  if (!a.row_weight.empty()) {
    TRY(count(a.row_weight, pairs, "moe_permute row_weight"));
    TRY(count(a.weight, pairs, "moe_permute weight"));
  }
  return in_range(a.expert, a.experts, "expert", -1);
}

Status check(const GroupedLinearArgs& a) {
  if (!a.w || a.w->each.empty()) return invalid("grouped_linear: no experts");
  TRY(count(a.expert_end, a.w->count(), "grouped_linear expert_end"));
  const i64 rows = a.x.shape.rows();
  TRY(matrix(a.x, rows, a.w->k, "grouped_linear x"));
  TRY(matrix(a.out, rows, a.w->n, "grouped_linear out"));
  if (!a.row_weight.empty()) TRY(count(a.row_weight, rows, "grouped_linear row_weight"));
  i32 begin = 0;
  for (std::size_t e = 0; e < a.w->each.size(); ++e) {
    TRY(prepared(a.w->each[e]));
    if (a.w->each[e].n != a.w->n || a.w->each[e].k != a.w->k)
      return invalid("grouped_linear: experts of different shapes");
    if (a.expert_end[e] < begin || a.expert_end[e] > rows)
      return invalid("grouped_linear: expert {} ends at row {}", e, a.expert_end[e]);
    begin = a.expert_end[e];
  }
  return {};
}

Status check(const MoeCombineArgs& a) {
  TRY(activations(a.rows, "moe_combine rows"));
  TRY(activations(a.out, "moe_combine out"));
  const i64 pairs = a.out.shape.rows() * a.top_k;
  TRY(count(a.row_of, pairs, "moe_combine row_of"));
  if (!a.weight.empty()) TRY(count(a.weight, pairs, "moe_combine weight"));
  if (a.rows.shape.cols() != a.out.shape.cols())
    return invalid("moe_combine: rows of {} into {}", a.rows.shape.cols(), a.out.shape.cols());
  return in_range(a.row_of, a.rows.shape.rows(), "row", -1);
}

Status check(const GatherRowsArgs& a) {
  TRY(activations(a.x, "gather_rows x"));
  TRY(matrix(a.out, static_cast<i64>(a.rows.size()), a.x.shape.cols(), "gather_rows out"));
  return in_range(a.rows, a.x.shape.rows(), "row");
}

Status check(const KvCopyArgs& a) {
  for (const auto& l : a.layers) {
    if (l.data == nullptr) return invalid("kv_copy: a layer without memory");
    for (const auto& c : a.copies) {
      if (std::min(c.from, c.to) < 0 || std::max(c.from, c.to) >= l.blocks)
        return invalid("kv_copy: block {} to {} of {}", c.from, c.to, l.blocks);
      if (c.tokens < 0 || c.tokens > kKvBlockTokens)
        return invalid("kv_copy: {} tokens of a block", c.tokens);
    }
  }
  return {};
}

Status check_stored(const LinearWeight& w) {
  const auto& v = w.weight;
  if (w.n <= 0 || w.k <= 0 || v.data == nullptr || v.shape.rows() != w.n || v.shape.cols() != w.k) {
    return invalid("a weight of {} was given as [{}, {}]", to_string(v.shape), w.n, w.k);
  }
  switch (v.dtype) {
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      break;
    case DType::kF8E4M3:
      if (w.scale.data == nullptr || w.scale.dtype != DType::kF32 ||
          w.scale.shape.rows() != ceil_div(w.n, 128) || w.scale.shape.cols() != ceil_div(w.k, 128)) {
        return invalid("an FP8 weight of [{}, {}] needs float32 scales of [{}, {}], not {}", w.n, w.k,
                       ceil_div(w.n, 128), ceil_div(w.k, 128), to_string(w.scale.shape));
      }
      break;
    default:
      return fail(ErrorCode::kUnsupported, "a weight of {}; use float32, bfloat16, float16 or float8_e4m3",
                  to_string(v.dtype));
  }
  if (w.bias) {
    const auto t = w.bias.dtype;
    if (w.bias.shape.elements() != w.n)
      return invalid("a bias of {} for {} columns", w.bias.shape.elements(), w.n);
    if (t != DType::kF32 && t != DType::kBF16 && t != DType::kF16) {
      return fail(ErrorCode::kUnsupported, "a bias of {}", to_string(t));
    }
  }
  return {};
}

}  // namespace trireme::cpu
