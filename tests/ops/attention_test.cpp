// Attention over ragged batches in paged caches.
#include "paged.h"

namespace trireme::ops_test {
namespace {

constexpr double kClose = 1e-2;  // weights and values may be rounded to BF16 before they meet
// Over an FP8 cache, and where products may be in FP8, q and the weights may be rounded to e4m3; there keys
// and values as well.
constexpr double kCloseFp8 = 5e-2;
constexpr float kProductScale = 0x1p-6f;

using Lengths = std::vector<std::pair<i32, i32>>;  // new tokens and context of each sequence
const Lengths kRagged = {{1, 1}, {3, 70}, {1, 1500}, {70, 70}, {65, 300}, {1, 64}},
              kDecode = {{1, 1}, {1, 64}, {1, 65}, {1, 700}, {2, 130}}, kFew = {{1, 33}, {2, 129}};

class Attention : public OnEveryBackend {};
INSTANTIATE_TEST_SUITE_P(Ops, Attention, testing::ValuesIn(backends()), backend_name);

struct MlaShape {
  i64 heads;
  int latent, rope;
  const Lengths* lengths;
};

TEST_P(Attention, AbsorbedMla) {
  for (const MlaShape m : {MlaShape{3, 80, 16, &kRagged},
                           {1, 512, 64, &kRagged},
                           {4, 512, 64, &kRagged},
                           {16, 512, 64, &kDecode},
                           {128, 512, 64, &kFew},
                           {16, 128, 32, &kDecode}}) {
    const Ragged b(rng, *m.lengths);
    const i64 tokens = b.tokens(), nope = 128;
    for (const DType t : cache_types(tested, mla_layout(DType::kBF16, m.latent, m.rope))) {
      const Cache cache = b.filled(rng, mla_layout(t, m.latent, m.rope)), wide = cache.as(DType::kF32);
      const Host q_latent = act({tokens, m.heads, m.latent}), q_rope = act({tokens, m.heads, m.rope});
      const float scale = 1 / std::sqrt(static_cast<float>(m.latent + m.rope));
      EXPECT_LT(off([&](Rig& r) {
                  const Cache& c = &r == &tested ? cache : wide;
                  const View out = r.poison_act(q_latent.shape);
                  RUN(r, r.ops().mla_absorbed({.q_latent = r.put_act(q_latent),
                                               .q_rope = r.put_act(q_rope, nope + m.rope),
                                               .seqs = b.on(r, c.layout, static_cast<int>(m.heads)),
                                               .cache = c.on(r),
                                               .scale = scale,
                                               .out = out},
                                              r.stream()));
                  return r.get(out);
                }),
                t == DType::kF8E4M3 ? kCloseFp8 : kClose)
          << m.heads << " heads of " << m.latent << " + " << m.rope << " over " << to_string(t);
    }
  }
}

struct ExpandedShape {
  i64 heads, nope, rope, v;
};

TEST_P(Attention, ExpandedMla) {
  for (const Lengths& lengths : {kRagged, Lengths{{130, 130}, {1, 1}, {129, 256}},
                                 Lengths{{127, 127}, {128, 129}, {128, 128}, {0, 0}, {5, 640}}}) {
    const Ragged b(rng, lengths);
    const i64 tokens = b.tokens(), context = b.k_start.back();
    for (const ExpandedShape e : {ExpandedShape{3, 24, 8, 20}, {2, 128, 64, 128}, {5, 64, 32, 64}}) {
      const Host q = act({tokens, e.heads, e.nope + e.rope}), kv = act({context, e.heads, e.nope + e.v}),
                 k_rope = act({context, e.rope});
      const float scale = 1 / std::sqrt(static_cast<float>(e.nope + e.rope));
      for (const bool fp8 : {false, true}) {
        bool made_use_of = false;
        const auto run = [&](Rig& r) {
          const View out = r.poison_act({tokens, e.heads, e.v});
          SeqBatch seqs;
          seqs.q_start = r.put(b.q_start);
          seqs.context_len = r.put(b.context);
          seqs.max_tokens = b.max_tokens;
          seqs.max_context = b.max_context;
          MlaExpandedArgs a{.q = r.put_act(q),
                            .kv = r.put_act(kv),
                            .k_rope = r.put_act(k_rope),
                            .nope = e.nope,
                            .v = e.v,
                            .seqs = seqs,
                            .k_start = r.put(b.k_start),
                            .scale = scale,
                            .out = out};
          if (fp8) a.fp8 = {.k_scale = kProductScale, .v_scale = kProductScale};
          const i64 room = fp8 ? r.backend().mla_expanded_room_bytes(a) : 0;
          if (room > 0) a.fp8.room = r.poison(DType::kU8, {room});
          RUN(r, r.ops().mla_expanded(a, r.stream()));
          if (room > 0) r.get_bytes(a.fp8.room.data, room);  // nothing was written behind it
          made_use_of |= room > 0;
          return r.get(out);
        };
        const double error = off(run);
        EXPECT_LT(error, made_use_of ? kCloseFp8 : kClose)
            << e.heads << " heads of " << e.nope << " + " << e.rope << " and " << e.v << ", FP8 allowed "
            << fp8;
      }
    }
  }
}

struct GqaShape {
  i64 heads;
  int kv_heads, dim;
};

TEST_P(Attention, GqaWithAndWithoutAWindow) {
  for (const Lengths* lengths : {&kRagged, &kDecode}) {
    const Ragged b(rng, *lengths);
    for (const GqaShape g : {GqaShape{6, 2, 32}, {8, 1, 64}, {8, 2, 128}, {4, 4, 128}, {5, 1, 64}}) {
      for (const DType t : cache_types(tested, gqa_layout(DType::kBF16, g.kv_heads, g.dim))) {
        const Cache cache = b.filled(rng, gqa_layout(t, g.kv_heads, g.dim)), wide = cache.as(DType::kF32);
        const Host q = act({b.tokens(), g.heads, g.dim});
        for (const i64 window : {0, 1, 100}) {
          EXPECT_LT(off([&](Rig& r) {
                      const Cache& c = &r == &tested ? cache : wide;
                      const View out = r.poison_act(q.shape);
                      RUN(r, r.ops().gqa_attention({.q = r.put_act(q),
                                                    .seqs = b.on(r, c.layout, static_cast<int>(g.heads)),
                                                    .cache = c.on(r),
                                                    .scale = 1 / std::sqrt(static_cast<float>(g.dim)),
                                                    .window = window,
                                                    .out = out},
                                                   r.stream()));
                      return r.get(out);
                    }),
                    kClose)
              << g.heads << " heads over " << g.kv_heads << " of " << g.dim << ", window " << window << ", "
              << to_string(t);
        }
      }
    }
  }
}

}  // namespace
}  // namespace trireme::ops_test
