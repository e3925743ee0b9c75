// What lies between the products: norms, quantisation, activation, rotation and appending, embedding.
#include "backends/cuda/bench/session.h"
#include "backends/cuda/bench/shapes.h"
#include "base/rng.h"

namespace trireme::cuda {
namespace {

double d(i64 x) { return static_cast<double>(x); }
double quantised_bytes(i64 rows, i64 n) { return d(rows) * d(n) * (1 + 4.0 / 128); }

std::vector<i32> random_ids(i64 n, i64 below) {
  Rng rng(5);
  std::vector<i32> ids(static_cast<std::size_t>(n));
  for (auto& id : ids) id = static_cast<i32>(rng.below(static_cast<u64>(below)));
  return ids;
}

// n different slots of a cache, scattered.
std::vector<i32> scattered(i64 n, i64 slots) {
  std::vector<i32> out;
  for (i64 i = 0; i < n; ++i) out.push_back(static_cast<i32>(i * 4099 % slots));  // 4099 is prime
  return out;
}

Status add_norm_quantise(BenchSession& s, i64 rows) {
  const i64 n = V3::hidden;
  const KernelTime row{.kernel = "add + norm + quantise",
                       .shape = fmt::format("{} x {}", rows, n),
                       .bytes = 6 * d(rows) * d(n) + quantised_bytes(rows, n)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View x = m.bf16({rows, n}), y = m.bf16({rows, n}), weight = m.f32({n});
  const Quantised q = m.quantised(rows, n);
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().add_rms_norm({.x = x, .y = y, .weight = weight, .out = {}, .q = q}, s.stream());
  });
}

// The query's low-rank part, as it lies beside the latent.
Status norm_quantise(BenchSession& s, i64 rows) {
  const i64 n = V3::q_lora;
  const KernelTime row{.kernel = "norm + quantise",
                       .shape = fmt::format("{} x {} of {}", rows, n, V3::kv_a_stride),
                       .bytes = 2 * d(rows) * d(n) + quantised_bytes(rows, n)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View all = m.bf16({rows, V3::kv_a_stride}), weight = m.f32({n});
  const View x(all.mutable_data(), DType::kBF16, {rows, n}, V3::kv_a_stride);
  const Quantised q = m.quantised(rows, n);
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().add_rms_norm({.x = x, .y = {}, .weight = weight, .out = {}, .q = q}, s.stream());
  });
}

Status quantise(BenchSession& s, i64 rows, i64 k) {
  const KernelTime row{.kernel = "quantise",
                       .shape = fmt::format("{} x {}", rows, k),
                       .bytes = 2 * d(rows) * d(k) + quantised_bytes(rows, k)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View x = m.bf16({rows, k});
  const Quantised q = m.quantised(rows, k);
  TRY(m.status());
  return s.measure(row, [&] { return s.ops().quantise({.x = x, .q = q}, s.stream()); });
}

Status swiglu_quantise(BenchSession& s, i64 rows, i64 n) {
  const KernelTime row{.kernel = "swiglu + quantise",
                       .shape = fmt::format("{} x 2 x {}", rows, n),
                       .bytes = 4 * d(rows) * d(n) + quantised_bytes(rows, n)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View gate_up = m.bf16({rows, 2 * n});
  const Quantised q = m.quantised(rows, n);
  TRY(m.status());
  return s.measure(row, [&] { return s.ops().swiglu({.gate_up = gate_up, .out = {}, .q = q}, s.stream()); });
}

Status mla_rope_append(BenchSession& s, i64 tokens, DType dtype) {
  const KvLayout layout{.kind = KvLayout::Kind::kMla,
                        .dtype = dtype,
                        .layers = 1,
                        .latent_dim = static_cast<int>(V3::latent),
                        .rope_dim = static_cast<int>(V3::rope)};
  const KernelTime row{
      .kernel = dtype == DType::kF8E4M3 ? "mla rope + append FP8 KV" : "mla rope + append",
      .shape = fmt::format("{} tokens", tokens),
      .bytes = d(tokens) * d(4 * V3::heads * V3::rope + 2 * (V3::latent + V3::rope) + layout.token_bytes())};
  if (!s.wanted(row)) return {};
  constexpr i64 kSlots = 65536, kPositions = 4096;
  RowMemory m(s);
  const View q = m.bf16({tokens, V3::heads, V3::nope + V3::rope}), all = m.bf16({tokens, V3::kv_a_stride}),
             norm = m.f32({V3::latent}), cos_sin = m.scales({kPositions, V3::rope});
  const View kv_a(all.mutable_row(0), DType::kBF16, {tokens, V3::latent + V3::rope}, V3::kv_a_stride);
  const In<i32> positions = m.copy(random_ids(tokens, kPositions)), slots = m.copy(scattered(tokens, kSlots));
  const KvCacheLayer cache{.layout = layout,
                           .data = m.room<u8>(kSlots * layout.token_bytes()).data(),
                           .blocks = kSlots / kKvBlockTokens};
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().mla_rope_append({.q = q,
                                    .kv_a = kv_a,
                                    .norm = norm,
                                    .nope = V3::nope,
                                    .positions = positions,
                                    .cos_sin = cos_sin,
                                    .slots = slots,
                                    .cache = cache},
                                   s.stream());
  });
}

Status gqa_rope_append(BenchSession& s, i64 tokens) {
  constexpr i64 kHeads = 64, kKvHeads = 8, kDim = 128, kSlots = 65536, kPositions = 4096;
  const KvLayout layout{.kind = KvLayout::Kind::kGqa,
                        .dtype = DType::kBF16,
                        .layers = 1,
                        .kv_heads = kKvHeads,
                        .head_dim = kDim};
  // q and k are read and written, v read, and both written to the cache.
  const KernelTime row{.kernel = "gqa rope + append",
                       .shape = fmt::format("{} tokens h64/8 d128", tokens),
                       .bytes = d(tokens) * 2 * kDim * (2 * kHeads + 2 * kKvHeads + kKvHeads + 2 * kKvHeads)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View q = m.bf16({tokens, kHeads, kDim}), k = m.bf16({tokens, kKvHeads, kDim}),
             v = m.bf16({tokens, kKvHeads, kDim}), cos_sin = m.scales({kPositions, kDim});
  const In<i32> positions = m.copy(random_ids(tokens, kPositions)), slots = m.copy(scattered(tokens, kSlots));
  const KvCacheLayer cache{.layout = layout,
                           .data = m.room<u8>(kSlots * layout.token_bytes()).data(),
                           .blocks = kSlots / kKvBlockTokens};
  TRY(m.status());
  return s.measure(row, [&] {
    return s.ops().gqa_rope_append(
        {.q = q, .k = k, .v = v, .positions = positions, .cos_sin = cos_sin, .slots = slots, .cache = cache},
        s.stream());
  });
}

Status embedding(BenchSession& s, i64 tokens) {
  const KernelTime row{.kernel = "embedding",
                       .shape = fmt::format("{} of {} x {}", tokens, V3::vocab, V3::hidden),
                       .bytes = 4 * d(tokens) * d(V3::hidden)};
  if (!s.wanted(row)) return {};
  RowMemory m(s);
  const View table = m.bf16({V3::vocab, V3::hidden}), out = m.room(DType::kBF16, {tokens, V3::hidden});
  const In<i32> ids = m.copy(random_ids(tokens, V3::vocab));
  TRY(m.status());
  return s.measure(row,
                   [&] { return s.ops().embedding({.ids = ids, .table = table, .out = out}, s.stream()); });
}

}  // namespace

Status bench_elementwise(BenchSession& s) {
  for (const i64 tokens : kGlueTokens) TRY(add_norm_quantise(s, tokens));
  for (const i64 tokens : kGlueTokens) TRY(norm_quantise(s, tokens));
  for (const i64 tokens : kGlueTokens) TRY(quantise(s, tokens, V3::heads * V3::nope));
  for (const i64 tokens : kGlueTokens) TRY(swiglu_quantise(s, tokens, V3::dense));
  for (const i64 tokens : kGlueTokens) TRY(swiglu_quantise(s, tokens * V3::top_k, V3::expert));
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3})
    for (const i64 tokens : kGlueTokens) TRY(mla_rope_append(s, tokens, dtype));
  for (const i64 tokens : kGlueTokens) TRY(gqa_rope_append(s, tokens));
  for (const i64 tokens : kGlueTokens) TRY(embedding(s, tokens));
  return {};
}

}  // namespace trireme::cuda
