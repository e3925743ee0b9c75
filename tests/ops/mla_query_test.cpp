// The product with W_UK in the form that attention takes it over each cache, and attention over it.
#include "paged.h"
#include "weights.h"

namespace trireme::ops_test {
namespace {

class MlaQuery : public WithWeights {
 protected:
  // [heads] of [latent, nope], stored the other way around for the backend under test.
  void weigh(i64 heads, i64 latent, i64 nope) {
    each_.clear();
    straight_.clear();
    for (i64 h = 0; h < heads; ++h) {
      each_.push_back(stored(DType::kBF16, nope, latent));
      straight_.push_back(turned(each_.back()));
    }
    w = prepared_transposed(tested, each_);
    w_oracle = prepared_group(oracle, straight_, true);
  }
  std::vector<Stored> each_, straight_;  // what the weights were prepared from
  GroupWeight w, w_oracle;
};
INSTANTIATE_TEST_SUITE_P(Ops, MlaQuery, testing::ValuesIn(backends()), backend_name);

TEST_P(MlaQuery, AttentionOverItIsAttentionOverTheProduct) {
  SKIP_WITHOUT(tested, mla_query);
  struct Shape {
    i64 heads, nope;
    int latent, rope;
  };
  for (const Shape m : {Shape{128, 128, 512, 64},
                        {16, 128, 512, 64},
                        {3, 128, 512, 64},
                        {16, 192, 512, 64},
                        {4, 64, 128, 32}}) {
    weigh(m.heads, m.latent, m.nope);
    const Ragged b(rng, {{1, 1}, {1, 64}, {1, 65}, {1, 700}, {2, 130}, {70, 70}});
    const i64 tokens = b.tokens();
    for (const DType t : cache_types(tested, mla_layout(DType::kBF16, m.latent, m.rope))) {
      const Cache cache = b.filled(rng, mla_layout(t, m.latent, m.rope)), wide = cache.as(DType::kF32);
      // Rows of very different lengths: each has a scale of its own.
      Host q = act({tokens, m.heads, m.nope + m.rope});
      for (i64 i = 0; i < q.size(); ++i)
        q.set(i, q.get(i) * std::exp2(static_cast<float>(i / (m.nope + m.rope) % 7 - 9)));
      const float scale = 1 / std::sqrt(static_cast<float>(m.latent + m.rope));
      EXPECT_LT(
          off([&](Rig& r) {
            const bool made = &r == &tested;
            const Cache& c = made ? cache : wide;
            const View whole = r.put_act(q), room = r.poison_act({tokens, m.heads, m.latent}),
                       out = r.poison_act({tokens, m.heads, m.latent});
            const auto part = [&](i64 begin, i64 n) {
              return View(static_cast<char*>(whole.mutable_data()) + begin * size_of(whole.dtype),
                          whole.dtype, {tokens, m.heads, n}, whole.row_stride);
            };
            const SeqBatch seqs = b.on(r, c.layout, static_cast<int>(m.heads));
            const KvCacheLayer layer = c.on(r);
            if (made)
              RUN(r, r.ops().mla_query(
                         {.q = whole, .nope = m.nope, .w_uk = &w, .seqs = seqs, .cache = layer, .out = room},
                         r.stream()));
            else
              RUN(r, r.ops().head_linear({.x = part(0, m.nope), .w = &w_oracle, .out = room}, r.stream()));
            RUN(r, r.ops().mla_absorbed({.q_latent = room,
                                         .q_rope = part(m.nope, m.rope),
                                         .seqs = seqs,
                                         .cache = layer,
                                         .scale = scale,
                                         .out = out,
                                         .made = made},
                                        r.stream()));
            return r.get(out);
          }),
          t == DType::kF8E4M3 ? 5e-2 : 1e-2)
          << m.heads << " heads of " << m.latent << " + " << m.rope << " over " << to_string(t);
      tested.clear();
      oracle.clear();
    }
  }
}

}  // namespace
}  // namespace trireme::ops_test
