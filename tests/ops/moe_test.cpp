// Choosing experts, and moving rows to them and back.
#include <algorithm>
#include <array>
#include <numeric>

#include "rig.h"

namespace trireme::ops_test {
namespace {

class Moe : public OnEveryBackend {};
INSTANTIATE_TEST_SUITE_P(Ops, Moe, testing::ValuesIn(backends()), backend_name);

struct GateShape {
  i64 experts;
  int groups, top_groups, top_k;
};

// Whether two candidates of token t are so close, without being equal, that rounding may order them either
// way.
bool within_rounding(const GateShape& g, const Host& logits, const Host& bias, bool sigmoid, i64 t) {
  std::vector<double> scores;
  for (i64 e = 0; e < g.experts; ++e) {
    const double x = static_cast<double>(logits.get(t * g.experts + e));
    scores.push_back(sigmoid ? 1 / (1 + std::exp(-x)) : x);
    if (bias.size() > 0) scores.back() += static_cast<double>(bias.get(e));
  }
  std::vector<double> groups;
  const i64 size = g.experts / g.groups;
  for (i64 i = 0; i < g.groups; ++i) {
    std::vector<double> in(scores.begin() + i * size, scores.begin() + (i + 1) * size);
    std::sort(in.rbegin(), in.rend());
    groups.push_back(in[0] + (size > 1 ? in[1] : 0));
  }
  for (std::vector<double>* v : {&scores, &groups}) {
    std::sort(v->begin(), v->end());
    for (std::size_t i = 1; i < v->size(); ++i) {
      const double gap = (*v)[i] - (*v)[i - 1];
      if (gap > 0 && gap < 2e-6) return true;
    }
  }
  return false;
}

TEST_P(Moe, GateChoosesAsTheOracleDoesAlsoAmongExactTies) {
  for (const GateShape g : {GateShape{8, 1, 1, 2},
                            {16, 4, 2, 4},
                            {256, 8, 4, 8},
                            {6, 6, 3, 3},
                            {16, 1, 1, 1},
                            {64, 1, 1, 6},
                            {160, 8, 3, 6}}) {
    for (const Scoring scoring : {Scoring::kSigmoidBias, Scoring::kSoftmaxTopK}) {
      const bool sigmoid = scoring == Scoring::kSigmoidBias;
      if (!sigmoid && g.groups > 1) continue;
      for (const bool ties : {false, true}) {
        constexpr i64 kTokens = 65;
        Host logits = random_host(rng, DType::kF32, {kTokens, g.experts}), bias;
        if (sigmoid) bias = random_host(rng, DType::kF32, {g.experts}, 0.1);
        if (ties) {
          for (i64 i = 0; i < logits.size(); ++i) logits.set(i, static_cast<float>(rng.below(3)));
          for (i64 i = 0; i < bias.size(); ++i) bias.set(i, 0.5f * static_cast<float>(rng.below(2)));
        }
        std::vector<i32> place;
        if (ties) {
          for (i64 e = 0; e < g.experts; ++e) place.push_back(static_cast<i32>(g.experts - 1 - e));
        }
        for (const bool normalise : {true, false}) {
          std::vector<i32> expert[2];
          std::vector<float> weight[2];
          for (Rig* r : {&tested, &oracle}) {
            const Out<i32> chosen = r->poison_i32(kTokens * g.top_k);
            const Out<float> with = r->poison_f32(kTokens * g.top_k);
            MoeGateArgs a{.logits = r->put(logits, DType::kF32, g.experts + 4),
                          .bias = bias.size() > 0 ? r->put(bias) : View{},
                          .scoring = scoring,
                          .groups = g.groups,
                          .top_groups = g.top_groups,
                          .top_k = g.top_k,
                          .normalise = normalise,
                          .routed_scale = 2.5f,
                          .expert = chosen,
                          .weight = with};
            if (!place.empty()) a.place = r->put(place);
            RUN(*r, r->ops().moe_gate(a, r->stream()));
            expert[r == &oracle] = r->get(chosen);
            weight[r == &oracle] = r->get(with);
            r->clear();
          }
          for (i64 t = 0; t < kTokens; ++t) {
            if (within_rounding(g, logits, bias, sigmoid, t)) continue;
            for (i64 i = t * g.top_k; i < (t + 1) * g.top_k; ++i) {
              const auto at = static_cast<std::size_t>(i);
              ASSERT_EQ(expert[0][at], expert[1][at])
                  << "choice " << i - t * g.top_k << " of token " << t << " of " << g.experts << " experts";
              ASSERT_NEAR(weight[0][at], weight[1][at], 1e-5f * std::abs(weight[1][at]));
            }
          }
        }
      }
    }
  }
}

struct Routes {
  std::vector<i32> expert, row_of, end;
  std::vector<float> weight;
};

// Different experts for the choices of a token, and where every pair then belongs.
Routes routes(Rng& rng, i64 tokens, int top_k, int experts, bool one_only, bool skipped) {
  Routes r;
  for (i64 t = 0; t < tokens; ++t) {
    std::vector<i32> all(static_cast<std::size_t>(experts));
    std::iota(all.begin(), all.end(), 0);
    for (std::size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[rng.below(i)]);
    for (int i = 0; i < top_k; ++i) {
      r.expert.push_back(one_only ? experts - 1 : all[static_cast<std::size_t>(i)]);
      if (skipped && rng.below(4) == 0) r.expert.back() = -1;
      r.weight.push_back(static_cast<float>(rng.uniform()));
    }
  }
  r.row_of.assign(r.expert.size(), -1);
  i32 row = 0;
  for (i32 e = 0; e < experts; ++e) {
    for (std::size_t i = 0; i < r.expert.size(); ++i)
      if (r.expert[i] == e) r.row_of[i] = row++;
    r.end.push_back(row);
  }
  return r;
}

struct PermuteShape {
  i64 tokens;
  int top_k, experts;
  i64 hidden;
  bool one_only = false;
};
constexpr PermuteShape kPermutes[] = {{1, 1, 1, 1},      {2, 3, 7, 33},      {17, 2, 8, 128},
                                      {65, 8, 256, 512}, {300, 4, 16, 64},   {129, 1, 8, 64, true},
                                      {3, 8, 256, 7168}, {1000, 8, 256, 16}, {40, 6, 64, 100}};

TEST_P(Moe, PermuteOrdersByExpertThenToken) {
  for (const PermuteShape& p : kPermutes) {
    for (const bool skipped : {false, true}) {
      const Routes expected = routes(rng, p.tokens, p.top_k, p.experts, p.one_only, skipped);
      const i64 pairs = p.tokens * p.top_k;
      const Host x = act({p.tokens, p.hidden});
      const bool quantisable = p.hidden % 16 == 0 && tested.ops().quantise != nullptr;
      for (const bool quantised : {false, true}) {
        if (quantised && !quantisable) continue;
        const View in = tested.put_act(x, quantised ? 0 : p.hidden + 2);
        const Out<i32> row_of = tested.poison_i32(pairs), end = tested.poison_i32(p.experts);
        MoePermuteArgs a{.x = in,
                         .expert = tested.put(expected.expert),
                         .top_k = p.top_k,
                         .experts = p.experts,
                         .rows = {},
                         .row_of = row_of,
                         .expert_end = end};
        // Half of the calls: the weights go along.
        const Out<float> row_weight = tested.poison_f32(pairs);
        if (skipped) {
          a.weight = tested.put(expected.weight);
          a.row_weight = row_weight;
        }
        if (quantised) {
          a.x = {};
          a.xq = tested.quantised(in);
          a.rows_q = tested.poison_quantised(pairs, p.hidden);
        } else {
          a.rows = tested.poison_act({pairs, p.hidden});
        }
        RUN(tested, tested.ops().moe_permute(a, tested.stream()));
        ASSERT_EQ(tested.get(row_of), expected.row_of) << p.tokens << " tokens to " << p.experts;
        ASSERT_EQ(tested.get(end), expected.end);
        const std::vector<float> moved = tested.get(row_weight);
        for (std::size_t i = 0; skipped && i < expected.row_of.size(); ++i) {
          const i32 row = expected.row_of[i];
          if (row < 0) continue;
          ASSERT_EQ(moved[static_cast<std::size_t>(row)], expected.weight[i]) << "pair " << i;
        }
        const Host from = quantised ? tested.get(a.xq) : x,
                   to = quantised ? tested.get(a.rows_q) : tested.get(a.rows);
        for (i64 i = 0; i < pairs; ++i) {
          const i32 row = expected.row_of[static_cast<std::size_t>(i)];
          for (i64 c = 0; row >= 0 && c < p.hidden; ++c)
            ASSERT_EQ(to.get(row * p.hidden + c), from.get(i / p.top_k * p.hidden + c))
                << "pair " << i << ", column " << c << " of " << p.hidden;
        }
        tested.clear();
      }
    }
  }
}

TEST_P(Moe, CombineSumsTheWeightedRowsOfEachToken) {
  for (const PermuteShape& p : kPermutes) {
    const Routes r = routes(rng, p.tokens, p.top_k, p.experts, p.one_only, false);
    const Host rows = act({p.tokens * p.top_k, p.hidden}), before = act({p.tokens, p.hidden});
    for (const auto& [accumulate, weighted] :
         {std::array{false, true}, {true, true}, {false, false}, {true, false}}) {
      EXPECT_LT(off([&](Rig& rig) {
                  const View out =
                      accumulate ? rig.put_act(before) : rig.poison_act({p.tokens, p.hidden}, p.hidden + 6);
                  RUN(rig, rig.ops().moe_combine({.rows = rig.put_act(rows),
                                                  .row_of = rig.put(r.row_of),
                                                  .weight = weighted ? rig.put(r.weight) : In<float>{},
                                                  .top_k = p.top_k,
                                                  .accumulate = accumulate,
                                                  .out = out},
                                                 rig.stream()));
                  return rig.get(out);
                }),
                rounding())
          << p.tokens << " tokens of " << p.hidden << (accumulate ? ", accumulated" : "")
          << (weighted ? "" : ", as they are");
    }
  }
}

}  // namespace
}  // namespace trireme::ops_test
