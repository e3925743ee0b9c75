// What writes the KV cache, reads it back and copies it.
#include <algorithm>

#include "paged.h"

namespace trireme::ops_test {
namespace {

class CacheOps : public OnEveryBackend {
 protected:
  // n different slots of a cache of `blocks`; with `skipped`, every third is negative.
  std::vector<i32> slots(i64 n, i64 blocks, bool skipped = false) {
    std::vector<i32> all;
    for (i64 i = 0; i < blocks * kKvBlockTokens; ++i) all.push_back(static_cast<i32>(i));
    for (std::size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[rng.below(i)]);
    all.resize(static_cast<std::size_t>(n));
    for (std::size_t i = 2; skipped && i < all.size(); i += 3) all[i] = -1;
    return all;
  }
  // Elements [begin, end) of the tokens in `slots`, and that all other slots are as they were.
  static Host tokens(const Cache& c, const std::vector<i32>& slots, i64 begin, i64 end) {
    Host out(DType::kF32, {static_cast<i64>(slots.size()), end - begin});
    for (i64 i = 0; i < out.size(); ++i) {
      const i32 slot = slots[static_cast<std::size_t>(i / (end - begin))];
      out.set(i, slot < 0 ? 0.0f : c.get(slot, begin + i % (end - begin)));
    }
    for (i64 s = 0; s < c.blocks * kKvBlockTokens; ++s) {
      if (std::find(slots.begin(), slots.end(), s) != slots.end()) continue;
      const auto at = c.bytes.begin() + s * c.layout.token_bytes();
      EXPECT_TRUE(std::all_of(at, at + c.layout.token_bytes(), [](char x) { return x == '\xff'; }))
          << "slot " << s << " was written";
    }
    return out;
  }
  // How far a value may be off once it is in a cache of type t.
  double stored(DType t) const { return t == DType::kF8E4M3 ? kFp8 : t == DType::kBF16 ? 4e-3 : 3e-6; }
  std::vector<float> floats(const Host& h) {
    std::vector<float> v;
    for (i64 i = 0; i < h.size(); ++i) v.push_back(h.get(i));
    return v;
  }
};
INSTANTIATE_TEST_SUITE_P(Ops, CacheOps, testing::ValuesIn(backends()), backend_name);

constexpr i64 kBlocks = 4;
constexpr std::pair<int, int> kMla[] = {{80, 16}, {512, 64}, {128, 2}};

TEST_P(CacheOps, MlaAppendThenGatherGivesBackWhatTheCacheHolds) {
  for (const auto& [latent, rope] : kMla) {
    for (const DType t : cache_types(tested, mla_layout(DType::kBF16, latent, rope))) {
      const Ragged b(rng, {{3, 3}, {1, 1}, {130, 130}});
      const Cache empty(mla_layout(t, latent, rope), b.blocks);
      const i64 n = b.tokens();
      const Host latents = act({n, latent}), ropes = act({n, rope});
      std::vector<i32> where;
      for (int s = 0; s < b.seqs(); ++s)
        for (i64 p = 0; p < b.context[static_cast<std::size_t>(s)]; ++p)
          where.push_back(static_cast<i32>(b.slot(s, p)));
      const KvCacheLayer layer = empty.on(tested);
      RUN(tested, tested.ops().mla_append({.latent = tested.put_act(latents, latent + 64),
                                           .rope = tested.put_act(ropes, rope + latent),
                                           .slots = tested.put(where),
                                           .cache = layer},
                                          tested.stream()));
      const Cache now = empty.back(tested, layer);
      const Host kept = tokens(now, where, 0, latent), kept_rope = tokens(now, where, latent, latent + rope);
      EXPECT_LT(relative_error(kept, latents), stored(t)) << latent << " " << to_string(t);
      EXPECT_LT(relative_error(kept_rope, ropes), t == DType::kF32 ? 1e-30 : 4e-3);

      const View latent_out = tested.poison_act({n, latent}), rope_out = tested.poison_act({n, rope});
      RUN(tested, tested.ops().mla_gather({.seqs = b.on(tested, empty.layout, 1),
                                           .k_start = tested.put(b.k_start),
                                           .cache = layer,
                                           .latent = latent_out,
                                           .rope = rope_out},
                                          tested.stream()));
      EXPECT_LT(relative_error(tested.get(latent_out), kept), t == DType::kF8E4M3 ? rounding() : 1e-30);
      EXPECT_EQ(relative_error(tested.get(rope_out), kept_rope), 0);
      tested.clear();
    }
  }
}

TEST_P(CacheOps, MlaRopeAppendIsRopeAndNormAndAppend) {
  SKIP_WITHOUT(tested, mla_rope_append);
  constexpr i64 kPositions = 40;
  for (const auto& [latent, rope] : kMla) {
    for (const auto& [heads, nope] : {std::pair<i64, i64>{3, 24}, {16, 128}, {1, 0}}) {
      for (const i64 n : {1, 2, 37}) {
        for (const bool interleaved : {true, false}) {
          const Host q = act({n, heads, nope + rope}), kv_a = act({n, latent + rope}, 2),
                     norm = random_host(rng, DType::kF32, {latent}),
                     table = random_host(rng, DType::kF32, {kPositions, rope});
          const std::vector<i32> positions = below(n, kPositions), where = slots(n, kBlocks, n > 2);

          const View oq = oracle.put_act(q), okv = oracle.put_act(kv_a),
                     olatent = oracle.poison_act({n, latent});
          RopeArgs rotate{.x = oq,
                          .offset = nope,
                          .dim = rope,
                          .positions = oracle.put(positions),
                          .cos_sin = oracle.put(table),
                          .interleaved = interleaved};
          RUN(oracle, oracle.ops().rope(rotate, oracle.stream()));
          rotate.x = View(okv.mutable_data(), okv.dtype, {n, 1, latent + rope});
          rotate.offset = latent;
          RUN(oracle, oracle.ops().rope(rotate, oracle.stream()));
          const ConstView first(okv.data, okv.dtype, {n, latent}, latent + rope);
          RUN(oracle, oracle.ops().rms_norm({first, oracle.put(norm), olatent}, oracle.stream()));
          Host expected_latent = oracle.get(olatent), expected_rope(DType::kF32, {n, rope});
          const Host rotated = oracle.get(okv);
          for (i64 i = 0; i < n * rope; ++i)
            expected_rope.set(i, rotated.get(i / rope * (latent + rope) + latent + i % rope));
          for (i64 t = 0; t < n; ++t) {
            if (where[static_cast<std::size_t>(t)] >= 0) continue;
            for (i64 i = 0; i < latent; ++i) expected_latent.set(t * latent + i, 0);
            for (i64 i = 0; i < rope; ++i) expected_rope.set(t * rope + i, 0);
          }

          for (const DType t : cache_types(tested, mla_layout(DType::kBF16, latent, rope))) {
            const Cache empty(mla_layout(t, latent, rope), kBlocks);
            const KvCacheLayer layer = empty.on(tested);
            const View tq = tested.put_act(q);
            RUN(tested, tested.ops().mla_rope_append({.q = tq,
                                                      .kv_a = tested.put_act(kv_a, latent + rope + 96),
                                                      .norm = tested.put(norm),
                                                      .nope = nope,
                                                      .positions = tested.put(positions),
                                                      .cos_sin = tested.put(table),
                                                      .interleaved = interleaved,
                                                      .slots = tested.put(where),
                                                      .cache = layer},
                                                     tested.stream()));
            EXPECT_LT(relative_error(tested.get(tq), oracle.get(oq)), rounding());
            const Cache now = empty.back(tested, layer);
            EXPECT_LT(relative_error(tokens(now, where, 0, latent), expected_latent), 1.5 * stored(t))
                << latent << " " << to_string(t);
            EXPECT_LT(relative_error(tokens(now, where, latent, latent + rope), expected_rope), 6e-3);
          }
          tested.clear();
          oracle.clear();
        }
      }
    }
  }
}

struct GqaShape {
  i64 heads;
  int kv_heads, dim;
};
constexpr GqaShape kGqa[] = {{4, 2, 6}, {8, 1, 64}, {8, 8, 128}, {3, 3, 20}};

TEST_P(CacheOps, GqaAppendPutsKeysThenValues) {
  for (const auto& [heads, kv_heads, dim] : kGqa) {
    for (const DType t : cache_types(tested, gqa_layout(DType::kBF16, kv_heads, dim))) {
      for (const i64 n : {1, 2, 65}) {
        const Cache empty(gqa_layout(t, kv_heads, dim), kBlocks);
        const Host k = act({n, kv_heads, dim}), v = act({n, kv_heads, dim});
        const std::vector<i32> where = slots(n, kBlocks);
        const KvCacheLayer layer = empty.on(tested);
        RUN(tested, tested.ops().gqa_append({.k = tested.put_act(k, dim),
                                             .v = tested.put_act(v, dim),
                                             .slots = tested.put(where),
                                             .cache = layer},
                                            tested.stream()));
        const Cache now = empty.back(tested, layer);
        const i64 each = i64{kv_heads} * dim;
        const double limit = t == tested.act() ? 1e-30 : stored(t);
        EXPECT_LT(relative_error(tokens(now, where, 0, each), k), limit);
        EXPECT_LT(relative_error(tokens(now, where, each, 2 * each), v), limit);
        tested.clear();
      }
    }
  }
}

TEST_P(CacheOps, GqaRopeAppendRotatesAndAppends) {
  SKIP_WITHOUT(tested, gqa_rope_append);
  constexpr i64 kPositions = 40;
  for (const auto& [heads, kv_heads, dim] : kGqa) {
    for (const i64 n : {1, 2, 65}) {
      const Cache empty(gqa_layout(DType::kBF16, kv_heads, dim), kBlocks);
      const Host q = act({n, heads, dim}), k = act({n, kv_heads, dim}), v = act({n, kv_heads, dim}),
                 table = random_host(rng, DType::kF32, {kPositions, dim});
      const std::vector<i32> positions = below(n, kPositions), where = slots(n, kBlocks, n > 2);
      const auto rotated = [&](const Host& x) {
        const View at = oracle.put_act(x);
        RUN(oracle,
            oracle.ops().rope(
                {.x = at, .dim = dim, .positions = oracle.put(positions), .cos_sin = oracle.put(table)},
                oracle.stream()));
        return oracle.get(at);
      };
      const KvCacheLayer layer = empty.on(tested);
      const View tq = tested.put_act(q), tk = tested.put_act(k);
      RUN(tested, tested.ops().gqa_rope_append({.q = tq,
                                                .k = tk,
                                                .v = tested.put_act(v),
                                                .positions = tested.put(positions),
                                                .cos_sin = tested.put(table),
                                                .slots = tested.put(where),
                                                .cache = layer},
                                               tested.stream()));
      Host expected_k = rotated(k), expected_v = v.as(DType::kF32);
      EXPECT_LT(relative_error(tested.get(tq), rotated(q)), rounding());
      EXPECT_LT(relative_error(tested.get(tk), expected_k), rounding());
      const i64 each = i64{kv_heads} * dim;
      for (i64 i = 0; i < n * each; ++i) {
        if (where[static_cast<std::size_t>(i / each)] >= 0) continue;
        expected_k.set(i, 0);
        expected_v.set(i, 0);
      }
      const Cache now = empty.back(tested, layer);
      EXPECT_LT(relative_error(tokens(now, where, 0, each), expected_k), 4e-3);
      EXPECT_LT(relative_error(tokens(now, where, each, 2 * each), expected_v), 4e-3);
      tested.clear();
      oracle.clear();
    }
  }
}

TEST_P(CacheOps, KvCopyCopiesTheFirstTokensOfABlockInEveryLayerInOrder) {
  for (const KvLayout& l : {mla_layout(DType::kBF16, 512, 64), mla_layout(DType::kF8E4M3, 512, 64),
                            gqa_layout(DType::kBF16, 2, 64), mla_layout(DType::kBF16, 6, 2)}) {
    constexpr std::size_t kLayers = 3;
    std::vector<Cache> before;
    std::vector<KvCacheLayer> layers;
    for (std::size_t i = 0; i < kLayers; ++i) {
      before.emplace_back(l, 8);
      for (char& c : before.back().bytes) c = static_cast<char>(rng.below(256));
      layers.push_back(before.back().on(tested));
    }
    // The third copy reads what the first wrote; the fourth overwrites what it read.
    const std::vector<CopyBlock> copies = {{2, 0, 5},  {7, 3, 64}, {0, 4, 9},
                                           {6, 0, 63}, {5, 5, 10}, {1, 2, 0}};
    RUN(tested, tested.ops().kv_copy({copies, layers}, tested.stream()));
    for (std::size_t i = 0; i < kLayers; ++i) {
      std::vector<char> expected = before[i].bytes;
      const i64 token = l.token_bytes(), block = token * kKvBlockTokens;
      for (const CopyBlock& c : copies)
        std::copy_n(std::vector<char>(expected.begin() + c.from * block, expected.end()).begin(),
                    c.tokens * token, expected.begin() + c.to * block);
      EXPECT_TRUE(before[i].back(tested, layers[i]).bytes == expected) << "layer " << i;
    }
    tested.clear();
  }
}

}  // namespace
}  // namespace trireme::ops_test
