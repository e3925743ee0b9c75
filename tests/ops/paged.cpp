#include "paged.h"

#include <algorithm>
#include <cstring>

namespace trireme::ops_test {
namespace {

template <class T>
void write(char* at, T v) {
  std::memcpy(at, &v, sizeof v);
}
template <class T>
T read(const char* at) {
  T v;
  std::memcpy(&v, at, sizeof v);
  return v;
}

bool in_codes(const KvLayout& l) { return l.kind == KvLayout::Kind::kMla && l.dtype == DType::kF8E4M3; }

}  // namespace

void Cache::set_token(i64 slot, const std::vector<float>& v) {
  char* const at = bytes.data() + slot * layout.token_bytes();
  if (!in_codes(layout)) {
    for (std::size_t i = 0; i < v.size(); ++i) {
      if (layout.dtype == DType::kF32)
        write(at + i * 4, v[i]);
      else
        write(at + i * 2, BF16(v[i]));
    }
    return;
  }
  const i64 latent = layout.latent_dim;
  for (i64 i = 0; i < latent; ++i)
    write(at + i, float_to_f8e4m3(v[static_cast<std::size_t>(i)] / kLatentScale));
  for (i64 i = 0; i < layout.rope_dim; ++i)
    write(at + latent + i * 2, BF16(v[static_cast<std::size_t>(latent + i)]));
}

float Cache::get(i64 slot, i64 i) const {
  const char* const at = bytes.data() + slot * layout.token_bytes();
  if (!in_codes(layout)) {
    return layout.dtype == DType::kF32 ? read<float>(at + i * 4) : static_cast<float>(read<BF16>(at + i * 2));
  }
  const i64 latent = layout.latent_dim;
  if (i < latent) return f8e4m3_to_float(read<u8>(at + i)) * kLatentScale;
  return static_cast<float>(read<BF16>(at + latent + (i - latent) * 2));
}

Cache Cache::as(DType t) const {
  KvLayout l = layout;
  l.dtype = t;
  Cache out(l, blocks);
  std::vector<float> v(static_cast<std::size_t>(l.token_elements()));
  for (i64 slot = 0; slot < blocks * kKvBlockTokens; ++slot) {
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = get(slot, static_cast<i64>(i));
    out.set_token(slot, v);
  }
  return out;
}

Cache Cache::back(Rig& r, const KvCacheLayer& l) const {
  Cache out = *this;
  out.bytes = r.get_bytes(l.data, static_cast<i64>(bytes.size()));
  return out;
}

Ragged::Ragged(Rng& rng, const std::vector<std::pair<i32, i32>>& fresh_and_context) {
  for (const auto& [fresh, length] : fresh_and_context) {
    q_start.push_back(q_start.back() + fresh);
    context.push_back(length);
    k_start.push_back(k_start.back() + length);
    max_blocks = std::max(max_blocks, ceil_div(length, kKvBlockTokens));
    max_tokens = std::max<i64>(max_tokens, fresh);
    max_context = std::max<i64>(max_context, length);
  }
  blocks = max_blocks * seqs();
  for (i64 i = 0; i < blocks; ++i) table.push_back(static_cast<i32>(i));
  for (std::size_t i = table.size(); i > 1; --i) std::swap(table[i - 1], table[rng.below(i)]);
}

Cache Ragged::filled(Rng& rng, const KvLayout& l) const {
  Cache c(l, blocks);
  std::vector<float> v(static_cast<std::size_t>(l.token_elements()));
  for (int s = 0; s < seqs(); ++s) {
    for (i64 p = 0; p < context[static_cast<std::size_t>(s)]; ++p) {
      for (float& x : v) x = static_cast<float>(rng.normal());
      c.set_token(slot(s, p), v);
    }
  }
  return c;
}

SeqBatch Ragged::on(Rig& r, const KvLayout& l, int heads) const {
  SeqBatch s{.q_start = r.put(q_start),
             .context_len = r.put(context),
             .block_table = r.put(table),
             .max_blocks = max_blocks,
             .max_tokens = max_tokens,
             .max_context = max_context};
  PlanAttentionArgs plan{.seqs = s, .layout = l, .tokens = tokens(), .heads = heads, .plan = nullptr};
  const i64 bytes = r.backend().attention_plan_bytes(plan);
  if (r.ops().plan_attention == nullptr || bytes == 0) return s;
  s.plan = plan.plan = r.put_bytes(std::vector<char>(static_cast<std::size_t>(bytes), '\xff'));
  RUN(r, r.ops().plan_attention(plan, r.stream()));
  return s;
}

}  // namespace trireme::ops_test
