#include <algorithm>

#include "backends/cpu/test_util.h"

namespace trireme::cpu {
namespace {

class Attention : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(EveryIsa, Attention, testing::ValuesIn(isas()), isa_name);

// Sequences whose blocks lie scattered over a cache.
struct Batch {
  std::vector<i32> q_start = {0}, context, table, k_start = {0};
  i64 max_blocks = 0, blocks = 0;

  Batch(Rng& rng, const std::vector<std::pair<i32, i32>>& fresh_and_context) {
    for (const auto& [fresh, length] : fresh_and_context) {
      q_start.push_back(q_start.back() + fresh);
      context.push_back(length);
      k_start.push_back(k_start.back() + length);
      max_blocks = std::max(max_blocks, ceil_div(length, kKvBlockTokens));
    }
    blocks = max_blocks * static_cast<i64>(context.size());
    for (i64 i = 0; i < blocks; ++i) table.push_back(static_cast<i32>(i));
    for (std::size_t i = table.size(); i > 1; --i) std::swap(table[i - 1], table[rng.below(i)]);
  }
  SeqBatch view() const { return {q_start, context, table, max_blocks}; }
  i64 tokens() const { return q_start.back(); }
  // One sequence alone, with only its new tokens [begin, end) as queries, over the same cache.
  Batch part(int seq, i32 begin, i32 end) const {
    Batch b = *this;
    const i32 fresh = q_start[seq + 1] - q_start[seq];
    b.q_start = {0, end - begin};
    b.context = {context[seq] - fresh + end};
    b.k_start = {0, b.context[0]};
    b.table.assign(table.begin() + seq * max_blocks, table.begin() + (seq + 1) * max_blocks);
    return b;
  }
  i64 slot(int seq, i64 position) const {
    return table[static_cast<std::size_t>(seq * max_blocks + position / kKvBlockTokens)] * kKvBlockTokens +
           position % kKvBlockTokens;
  }
};

const std::vector<std::pair<i32, i32>> kRagged = {{1, 1}, {3, 70}, {1, 1500}, {130, 130}, {65, 600}, {1, 64}};

// softmax(scale q k) v in double over keys [first, last].
template <class Score, class Value>
std::vector<double> naive(i64 first, i64 last, i64 dv, double scale, Score score, Value value) {
  std::vector<double> s;
  for (i64 key = first; key <= last; ++key) s.push_back(scale * score(key));
  const double m = *std::max_element(s.begin(), s.end());
  double sum = 0;
  for (double& x : s) sum += x = std::exp(x - m);
  std::vector<double> out(static_cast<std::size_t>(dv), 0.0);
  for (i64 key = first; key <= last; ++key)
    for (i64 d = 0; d < dv; ++d)
      out[static_cast<std::size_t>(d)] += s[static_cast<std::size_t>(key - first)] / sum * value(key, d);
  return out;
}

struct Gqa {
  i64 heads = 6, kv_heads = 2, dim = 32, window = 0;
  float scale = 0.2f;
  Tensor q, cache;

  Gqa(Rng& rng, const Batch& b, DType t)
      : q(random_tensor(rng, DType::kF32, {b.tokens(), heads, dim})),
        cache(t, {b.blocks, kKvBlockTokens, 2 * kv_heads * dim}) {
    for (int s = 0; s < static_cast<int>(b.context.size()); ++s)  // what no context covers stays NaN
      for (i64 p = 0; p < b.context[s]; ++p)
        for (i64 i = 0; i < 2 * kv_heads * dim; ++i)
          cache.set(b.slot(s, p) * 2 * kv_heads * dim + i, static_cast<float>(rng.normal()));
  }
  std::vector<float> run(Runner& r, const Batch& b, i64 first_query = 0) {
    Tensor out(DType::kF32, {b.tokens(), heads, dim});
    KvLayout l;
    l.kind = KvLayout::Kind::kGqa;
    l.dtype = cache.dtype;
    l.kv_heads = static_cast<int>(kv_heads);
    l.head_dim = static_cast<int>(dim);
    const View queries(q.f32() + first_query * heads * dim, DType::kF32, out.shape);
    EXPECT_OK(r.ops().gqa_attention(
        {queries, b.view(), {l, cache.bytes.data(), b.blocks}, scale, window, out.view()}, *r.stream));
    return out.values();
  }
  std::vector<float> expected(const Batch& b) const {
    std::vector<float> out;
    const i64 each = 2 * kv_heads * dim;
    for (int s = 0; s < static_cast<int>(b.context.size()); ++s) {
      for (i64 t = b.q_start[s]; t < b.q_start[s + 1]; ++t) {
        for (i64 h = 0; h < heads; ++h) {
          const i64 kv = h / (heads / kv_heads), last = b.context[s] - (b.q_start[s + 1] - t);
          const auto v = naive(
              window > 0 ? std::max<i64>(0, last - window + 1) : 0, last, dim, static_cast<double>(scale),
              [&](i64 key) {
                double dot = 0;
                for (i64 i = 0; i < dim; ++i)
                  dot += static_cast<double>(q.get((t * heads + h) * dim + i)) *
                         static_cast<double>(cache.get(b.slot(s, key) * each + kv * dim + i));
                return dot;
              },
              [&](i64 key, i64 d) {
                return static_cast<double>(cache.get(b.slot(s, key) * each + (kv_heads + kv) * dim + d));
              });
          for (const double x : v) out.push_back(static_cast<float>(x));
        }
      }
    }
    return out;
  }
};

struct Mla {
  i64 heads = 3, latent = 80, rope = 16;
  float scale = 0.1f;
  Tensor q_latent, q_rope, cache;

  Mla(Rng& rng, const Batch& b, DType t)
      : q_latent(random_tensor(rng, DType::kF32, {b.tokens(), heads, latent})),
        q_rope(random_tensor(rng, DType::kF32, {b.tokens(), heads, rope})),
        cache(t, {b.blocks, kKvBlockTokens, latent + rope}) {
    for (int s = 0; s < static_cast<int>(b.context.size()); ++s)
      for (i64 p = 0; p < b.context[s]; ++p)
        for (i64 i = 0; i < latent + rope; ++i)
          cache.set(b.slot(s, p) * (latent + rope) + i, static_cast<float>(rng.normal()));
  }
  KvCacheLayer layer(const Batch& b) {
    KvLayout l;
    l.dtype = cache.dtype;
    l.latent_dim = static_cast<int>(latent);
    l.rope_dim = static_cast<int>(rope);
    return {l, cache.bytes.data(), b.blocks};
  }
  std::vector<float> run(Runner& r, const Batch& b, i64 first_query = 0) {
    Tensor out(DType::kF32, {b.tokens(), heads, latent});
    const View ql(q_latent.f32() + first_query * heads * latent, DType::kF32, {b.tokens(), heads, latent});
    const View qr(q_rope.f32() + first_query * heads * rope, DType::kF32, {b.tokens(), heads, rope});
    EXPECT_OK(r.ops().mla_absorbed({ql, qr, b.view(), layer(b), scale, out.view()}, *r.stream));
    return out.values();
  }
  std::vector<float> expected(const Batch& b) const {
    std::vector<float> out;
    for (int s = 0; s < static_cast<int>(b.context.size()); ++s) {
      for (i64 t = b.q_start[s]; t < b.q_start[s + 1]; ++t) {
        for (i64 h = 0; h < heads; ++h) {
          const auto element = [&](i64 key, i64 i) {
            return static_cast<double>(cache.get(b.slot(s, key) * (latent + rope) + i));
          };
          const auto v = naive(
              0, b.context[s] - (b.q_start[s + 1] - t), latent, static_cast<double>(scale),
              [&](i64 key) {
                double dot = 0;
                for (i64 i = 0; i < latent; ++i)
                  dot += static_cast<double>(q_latent.get((t * heads + h) * latent + i)) * element(key, i);
                for (i64 i = 0; i < rope; ++i)
                  dot +=
                      static_cast<double>(q_rope.get((t * heads + h) * rope + i)) * element(key, latent + i);
                return dot;
              },
              element);
          for (const double x : v) out.push_back(static_cast<float>(x));
        }
      }
    }
    return out;
  }
};

struct Expanded {
  i64 heads = 3, nope = 24, rope = 8, v = 20;
  float scale = 0.2f;
  Tensor q, kv, k_rope;

  Expanded(Rng& rng, const Batch& b)
      : q(random_tensor(rng, DType::kF32, {b.tokens(), heads, nope + rope})),
        kv(random_tensor(rng, DType::kF32, {b.k_start.back(), heads, nope + v})),
        k_rope(random_tensor(rng, DType::kF32, {b.k_start.back(), rope})) {}
  std::vector<float> run(Runner& r, const Batch& b, i64 first_query = 0, i64 first_key = 0) {
    Tensor out(DType::kF32, {b.tokens(), heads, v});
    const View qv(q.f32() + first_query * heads * (nope + rope), DType::kF32,
                  {b.tokens(), heads, nope + rope});
    const View kvv(kv.f32() + first_key * heads * (nope + v), DType::kF32,
                   {b.k_start.back(), heads, nope + v});
    const View krv(k_rope.f32() + first_key * rope, DType::kF32, {b.k_start.back(), rope});
    EXPECT_OK(
        r.ops().mla_expanded({qv, kvv, krv, nope, v, b.view(), b.k_start, scale, out.view()}, *r.stream));
    return out.values();
  }
  std::vector<float> expected(const Batch& b) const {
    std::vector<float> out;
    for (int s = 0; s < static_cast<int>(b.context.size()); ++s) {
      for (i64 t = b.q_start[s]; t < b.q_start[s + 1]; ++t) {
        for (i64 h = 0; h < heads; ++h) {
          const auto row = [&](i64 key) { return ((b.k_start[s] + key) * heads + h) * (nope + v); };
          const auto o = naive(
              0, b.context[s] - (b.q_start[s + 1] - t), v, static_cast<double>(scale),
              [&](i64 key) {
                double dot = 0;
                for (i64 i = 0; i < nope + rope; ++i) {
                  const float k =
                      i < nope ? kv.get(row(key) + i) : k_rope.get((b.k_start[s] + key) * rope + i - nope);
                  dot += static_cast<double>(q.get((t * heads + h) * (nope + rope) + i)) *
                         static_cast<double>(k);
                }
                return dot;
              },
              [&](i64 key, i64 d) { return static_cast<double>(kv.get(row(key) + nope + d)); });
          for (const double x : o) out.push_back(static_cast<float>(x));
        }
      }
    }
    return out;
  }
};

TEST_P(Attention, AgreesWithTheFormulaOverRaggedPagedBatches) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam()), oracle = Runner::oracle();
  const Batch b(rng, kRagged);
  for (const DType t : {DType::kF32, DType::kBF16}) {
    const double close = t == DType::kF32 ? 3e-6 : 1e-2;
    for (const i64 window : {0, 1, 100, 700}) {
      Gqa g(rng, b, t);
      g.window = window;
      const auto expected = g.expected(b);
      EXPECT_LT(relative_error(g.run(oracle, b), expected), 2e-6);
      EXPECT_LT(relative_error(g.run(fast, b), expected), close)
          << "window " << window << " " << to_string(t);
    }
    Mla m(rng, b, t);
    const auto expected = m.expected(b);
    EXPECT_LT(relative_error(m.run(oracle, b), expected), 2e-6);
    EXPECT_LT(relative_error(m.run(fast, b), expected), close) << to_string(t);
  }
  Expanded e(rng, b);
  const auto expected = e.expected(b);
  EXPECT_LT(relative_error(e.run(oracle, b), expected), 2e-6);
  EXPECT_LT(relative_error(e.run(fast, b), expected), 1e-2);
}

// `run` of a batch, and of pieces of it: the same bits on any number of threads, alone, and chunk by chunk.
template <class Case, class Run>
void expect_batch_invariant(Isa isa, Case& c, const Batch& b, i64 row, Run run) {
  Runner one = Runner::fast(isa, 1), two = Runner::fast(isa, 2), three = Runner::fast(isa, 3);
  const auto all = run(two, c, b, 0, 0);
  EXPECT_EQ(run(one, c, b, 0, 0), all);
  EXPECT_EQ(run(three, c, b, 0, 0), all);
  for (int s = 0; s < static_cast<int>(b.context.size()); ++s) {
    const i32 fresh = b.q_start[s + 1] - b.q_start[s];
    for (const i32 chunk : {1, 32, 1000}) {
      if (fresh > 100 && chunk == 1) continue;
      for (i32 begin = 0; begin < fresh; begin += chunk) {
        const i32 end = std::min(fresh, begin + chunk);
        const i64 first = b.q_start[s] + begin;
        const std::vector<float> expected(all.begin() + first * row,
                                          all.begin() + (first + end - begin) * row);
        EXPECT_EQ(run(three, c, b.part(s, begin, end), first, b.k_start[s]), expected)
            << "sequence " << s << ", new tokens " << begin << " to " << end;
      }
    }
  }
}

TEST_P(Attention, AQueryIsTheSameToTheBitAloneInABatchAndInChunks) {
  Rng rng(fresh_seed());
  const Batch b(rng, kRagged);
  for (const DType t : {DType::kF32, DType::kBF16}) {
    Gqa g(rng, b, t);
    for (const i64 window : {0, 90}) {
      g.window = window;
      expect_batch_invariant(
          GetParam(), g, b, g.heads * g.dim,
          [](Runner& r, Gqa& c, const Batch& part, i64 q, i64) { return c.run(r, part, q); });
    }
    Mla m(rng, b, t);
    expect_batch_invariant(
        GetParam(), m, b, m.heads * m.latent,
        [](Runner& r, Mla& c, const Batch& part, i64 q, i64) { return c.run(r, part, q); });
  }
  Expanded e(rng, b);
  expect_batch_invariant(
      GetParam(), e, b, e.heads * e.v,
      [](Runner& r, Expanded& c, const Batch& part, i64 q, i64 k) { return c.run(r, part, q, k); });
}

TEST_P(Attention, AppendThenGatherGivesBackWhatTheCacheHolds) {
  Rng rng(fresh_seed());
  for (const DType t : {DType::kF32, DType::kBF16}) {
    for (const bool use_oracle : {false, true}) {
      Runner r = use_oracle ? Runner::oracle() : Runner::fast(GetParam());
      const Batch b(rng, {{3, 3}, {130, 130}});
      Mla m(rng, b, t);
      Tensor latent = random_tensor(rng, DType::kF32, {133, m.latent}),
             rope = random_tensor(rng, DType::kF32, {133, m.rope});
      std::vector<i32> slots;
      for (int s = 0; s < 2; ++s)
        for (i64 p = 0; p < b.context[s]; ++p) slots.push_back(static_cast<i32>(b.slot(s, p)));
      EXPECT_OK(r.ops().mla_append({latent.view(), rope.view(), slots, m.layer(b)}, *r.stream));
      Tensor latent2(DType::kF32, latent.shape), rope2(DType::kF32, rope.shape);
      EXPECT_OK(
          r.ops().mla_gather({b.view(), b.k_start, m.layer(b), latent2.view(), rope2.view()}, *r.stream));
      const auto rounded = [t](std::vector<float> v) {
        if (t == DType::kBF16)
          for (float& x : v) x = static_cast<float>(BF16(x));
        return v;
      };
      EXPECT_EQ(latent2.values(), rounded(latent.values()));
      EXPECT_EQ(rope2.values(), rounded(rope.values()));
      slots[0] = static_cast<i32>(b.blocks * kKvBlockTokens);
      EXPECT_FALSE(r.ops().mla_append({latent.view(), rope.view(), slots, m.layer(b)}, *r.stream));
    }
  }
}

TEST_P(Attention, GqaAppendPutsKeysThenValues) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam()), oracle = Runner::oracle();
  KvLayout l;
  l.kind = KvLayout::Kind::kGqa;
  l.dtype = DType::kBF16;
  l.kv_heads = 2;
  l.head_dim = 6;
  Tensor k = random_tensor(rng, DType::kF32, {2, 2, 6}), v = random_tensor(rng, DType::kF32, {2, 2, 6});
  const std::vector<i32> slots = {70, 3};
  for (Runner* r : {&fast, &oracle}) {
    Tensor cache(DType::kBF16, {2, kKvBlockTokens, 24});
    EXPECT_OK(r->ops().gqa_append({k.view(), v.view(), slots, {l, cache.bytes.data(), 2}}, *r->stream));
    for (i64 t = 0; t < 2; ++t) {
      for (i64 i = 0; i < 12; ++i) {
        EXPECT_EQ(cache.get(slots[static_cast<std::size_t>(t)] * 24 + i),
                  static_cast<float>(BF16(k.get(t * 12 + i))));
        EXPECT_EQ(cache.get(slots[static_cast<std::size_t>(t)] * 24 + 12 + i),
                  static_cast<float>(BF16(v.get(t * 12 + i))));
      }
    }
    EXPECT_TRUE(std::isnan(cache.get(71 * 24)));
  }
}

TEST_P(Attention, ABlockTableThatPointsOutsideTheCacheIsRefused) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam());
  Batch b(rng, {{1, 65}});
  Gqa g(rng, b, DType::kBF16);
  b.table[1] = static_cast<i32>(b.blocks);
  Tensor out(DType::kF32, {1, g.heads, g.dim});
  KvLayout l;
  l.kind = KvLayout::Kind::kGqa;
  l.kv_heads = 2;
  l.head_dim = 32;
  EXPECT_FALSE(fast.ops().gqa_attention(
      {g.q.view(), b.view(), {l, g.cache.bytes.data(), b.blocks}, 1, 0, out.view()}, *fast.stream));
}

}  // namespace
}  // namespace trireme::cpu
