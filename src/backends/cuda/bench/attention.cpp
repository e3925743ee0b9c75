// Attention over the paged cache and over keys side by side, and what prepares it.
#include <numeric>

#include "backends/cuda/attention.h"
#include "backends/cuda/bench/session.h"
#include "backends/cuda/bench/shapes.h"
#include "backends/cuda/sm90/mla_decode/mla_decode.h"
#include "base/rng.h"

namespace trireme::cuda {
namespace {

double d(i64 x) { return static_cast<double>(x); }

std::string shape_of(const AttentionShape& c) {
  return c.fresh == 1 ? fmt::format("B{} S{}", c.seqs, c.context)
                      : fmt::format("B{} S{} new {}", c.seqs, c.context, c.fresh);
}

// Pairs of a new token and a token that it sees.
double scores(const AttentionShape& c) {
  return d(c.seqs) * d(c.fresh) * (d(c.context) - d(c.fresh - 1) / 2);
}

KvLayout mla_layout(DType dtype) {
  return {.kind = KvLayout::Kind::kMla,
          .dtype = dtype,
          .layers = 1,
          .latent_dim = static_cast<int>(V3::latent),
          .rope_dim = static_cast<int>(V3::rope)};
}

// Every sequence's tokens in blocks that lie scattered, and k_start for attention that is not paged.
struct Batch {
  SeqBatch seqs;
  KvCacheLayer cache;
  In<i32> k_start;
  i64 tokens = 0;
};

std::vector<i32> multiples(i64 n, i64 step) {
  std::vector<i32> v;
  for (i64 i = 0; i <= n; ++i) v.push_back(static_cast<i32>(i * step));
  return v;
}

Batch make_batch(RowMemory& m, const AttentionShape& c) {
  Batch b;
  const i64 blocks = ceil_div(c.context, kKvBlockTokens);
  std::vector<i32> table(static_cast<std::size_t>(c.seqs * blocks));
  std::iota(table.begin(), table.end(), 0);
  Rng rng(3);
  for (std::size_t i = table.size(); i > 1; --i) std::swap(table[i - 1], table[rng.below(i)]);
  b.tokens = c.seqs * c.fresh;
  b.seqs.q_start = m.copy(multiples(c.seqs, c.fresh));
  b.seqs.context_len =
      m.copy(std::vector<i32>(static_cast<std::size_t>(c.seqs), static_cast<i32>(c.context)));
  b.seqs.block_table = m.copy(table);
  b.seqs.max_blocks = blocks;
  b.seqs.max_tokens = c.fresh;
  b.seqs.max_context = c.context;
  b.k_start = m.copy(multiples(c.seqs, c.context));
  return b;
}

KvCacheLayer make_cache(RowMemory& m, const Batch& b, const KvLayout& layout) {
  const i64 blocks = static_cast<i64>(b.seqs.block_table.size());
  const Noise noise = layout.dtype == DType::kF8E4M3 ? Noise::kFp8Cache : Noise::kBf16;
  return {.layout = layout,
          .data = m.noise(noise, blocks * kKvBlockTokens * layout.token_bytes()),
          .blocks = blocks,
          .latent_scale = 0x1p-7f};
}

Status mla_decode_row(BenchSession& s, const AttentionShape& c, DType dtype) {
  const KvLayout layout = mla_layout(dtype);
  const i64 tokens = c.seqs * c.fresh, rows = tokens * V3::heads;
  const bool fp8 = dtype == DType::kF8E4M3;
  KernelTime row{.kernel = fp8 ? "mla_decode FP8 KV" : "mla_decode",
                 .shape = shape_of(c) + " h128",
                 .flops = 2 * scores(c) * d(V3::heads) * d(2 * V3::latent + V3::rope),
                 .bytes = d(c.seqs) * d(c.context) * d(layout.token_bytes()) +
                          d(rows) * d((fp8 ? kMlaQueryRow : 2 * (V3::latent + V3::rope)) + 2 * V3::latent)};
  if (!fp8) row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  Batch b = make_batch(m, c);
  b.cache = make_cache(m, b, layout);
  const View q_latent = m.bf16({tokens, V3::heads, V3::latent});
  View q = m.bf16({tokens, V3::heads, V3::nope + V3::rope});
  const View out = m.room(DType::kBF16, {tokens, V3::heads, V3::latent});
  PlanAttentionArgs plan{.seqs = b.seqs,
                         .layout = layout,
                         .tokens = tokens,
                         .heads = static_cast<int>(V3::heads),
                         .plan = nullptr};
  plan.plan = m.room<u8>(s.backend().attention_plan_bytes(plan)).data();
  TRY(m.status());
  const ConstView q_rope(static_cast<const BF16*>(q.data) + V3::nope, DType::kBF16,
                         {tokens, V3::heads, V3::rope}, V3::nope + V3::rope);
  TRY(s.ops().plan_attention(plan, s.stream()));
  b.seqs.plan = plan.plan;
  // As the product with W_UK leaves them.
  View query = q_latent;
  if (fp8) {
    query = m.room(DType::kBF16, {tokens, V3::heads, V3::latent});
    TRY(m.status());
    const auto codes = mla_code_room(layout, c.seqs, query, q_rope);
    CHECK(codes);
    CUDA_TRY(mla_query_rows({q_latent.data, q_latent.row_stride, q_rope.data, q_rope.row_stride, rows,
                             b.cache.latent_scale, codes->rows, codes->scale},
                            s.stream().handle()));
  }
  return s.measure(row, [&] {
    return s.ops().mla_absorbed({.q_latent = query,
                                 .q_rope = q_rope,
                                 .seqs = b.seqs,
                                 .cache = b.cache,
                                 .scale = 0.1352f,
                                 .out = out,
                                 .made = fp8},
                                s.stream());
  });
}

// Once a step for all layers.
Status plan_row(BenchSession& s, const AttentionShape& c) {
  const KernelTime row{.kernel = "mla_decode plan", .shape = shape_of(c)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const Batch b = make_batch(m, c);
  PlanAttentionArgs plan{.seqs = b.seqs,
                         .layout = mla_layout(DType::kBF16),
                         .tokens = b.tokens,
                         .heads = static_cast<int>(V3::heads),
                         .plan = nullptr};
  plan.plan = m.room<u8>(s.backend().attention_plan_bytes(plan)).data();
  TRY(m.status());
  return s.measure(row, [&] { return s.ops().plan_attention(plan, s.stream()); });
}

Status mla_prefill_row(BenchSession& s, const AttentionShape& c, bool fp8) {
  const i64 tokens = c.seqs * c.fresh, context = c.seqs * c.context, qk = V3::nope + V3::rope;
  KernelTime row{.kernel = fp8 ? "mla_prefill FP8" : "mla_prefill",
                 .shape = shape_of(c) + " h128 192/128",
                 .flops = 2 * scores(c) * d(V3::heads) * d(qk + V3::nope),
                 .bytes = 2 * d(V3::heads) * (d(tokens) * d(qk + V3::nope) + d(context) * d(2 * V3::nope)) +
                          2 * d(context) * d(V3::rope),
                 .fp8 = fp8};
  if (!fp8) row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const Batch b = make_batch(m, c);
  const View q = m.bf16({tokens, V3::heads, qk}), kv = m.bf16({context, V3::heads, 2 * V3::nope}),
             k_rope = m.bf16({context, V3::rope}), out = m.room(DType::kBF16, {tokens, V3::heads, V3::nope});
  MlaExpandedArgs a{.q = q,
                    .kv = kv,
                    .k_rope = k_rope,
                    .nope = V3::nope,
                    .v = V3::nope,
                    .seqs = b.seqs,
                    .k_start = b.k_start,
                    .scale = 0.1352f,
                    .out = out};
  if (fp8) {
    a.fp8 = {.k_scale = 0x1p-6f, .v_scale = 0x1p-6f};
    a.fp8.room = m.room(DType::kU8, {s.backend().mla_expanded_room_bytes(a)});
  }
  TRY(m.status());
  return s.measure(row, [&] { return s.ops().mla_expanded(a, s.stream()); });
}

Status gather_row(BenchSession& s, const AttentionShape& c, DType dtype) {
  const KvLayout layout = mla_layout(dtype);
  const i64 context = c.seqs * c.context;
  const KernelTime row{.kernel = dtype == DType::kF8E4M3 ? "mla_gather FP8 KV" : "mla_gather",
                       .shape = shape_of(c),
                       .bytes = d(context) * d(layout.token_bytes() + 2 * (V3::latent + V3::rope))};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const Batch b = make_batch(m, c);
  const KvCacheLayer cache = make_cache(m, b, layout);
  const View latent = m.room(DType::kBF16, {context, V3::latent}),
             rope = m.room(DType::kBF16, {context, V3::rope});
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().mla_gather(
        {.seqs = b.seqs, .k_start = b.k_start, .cache = cache, .latent = latent, .rope = rope}, s.stream());
  });
}

Status gqa_row(BenchSession& s, const GqaShape& g) {
  const AttentionShape& c = g.batch;
  const KvLayout layout{.kind = KvLayout::Kind::kGqa,
                        .dtype = DType::kBF16,
                        .layers = 1,
                        .kv_heads = static_cast<int>(g.kv_heads),
                        .head_dim = static_cast<int>(g.dim)};
  const i64 tokens = c.seqs * c.fresh;
  KernelTime row{
      .kernel = c.fresh == 1 ? "gqa_decode" : "gqa_prefill",
      .shape = fmt::format("{} {} h{}/{} d{}", g.what, shape_of(c), g.heads, g.kv_heads, g.dim),
      .flops = 4 * scores(c) * d(g.heads) * d(g.dim),
      .bytes = d(c.seqs) * d(c.context) * d(layout.token_bytes()) + 4 * d(tokens) * d(g.heads) * d(g.dim)};
  row.anchor = c.anchor;
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const Batch b = make_batch(m, c);
  const KvCacheLayer cache = make_cache(m, b, layout);
  const View q = m.bf16({tokens, g.heads, g.dim}), out = m.room(DType::kBF16, {tokens, g.heads, g.dim});
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().gqa_attention(
        {.q = q, .seqs = b.seqs, .cache = cache, .scale = 0.0884f, .window = 0, .out = out}, s.stream());
  });
}

}  // namespace

Status bench_attention(BenchSession& s) {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3})
    for (const auto& c : kMlaDecode) TRY(mla_decode_row(s, c, dtype));
  TRY(plan_row(s, {256, 1, 2048}));
  for (const bool fp8 : {false, true})
    for (const auto& c : kMlaPrefill) TRY(mla_prefill_row(s, c, fp8));
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) TRY(gather_row(s, {1, 1024, 16384}, dtype));
  for (const auto& g : kGqa) TRY(gqa_row(s, g));
  return {};
}

}  // namespace trireme::cuda
