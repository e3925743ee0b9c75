#include <algorithm>
#include <numeric>

#include "backends/cpu/test_util.h"

namespace trireme::cpu {
namespace {

struct Gate {
  Tensor logits, bias;
  MoeGateArgs args;
  std::vector<i32> expert;
  std::vector<float> weight;

  Gate(i64 tokens, i64 experts, int top_k)
      : logits(DType::kF32, {tokens, experts}), bias(DType::kF32, {experts}) {
    args.top_k = top_k;
    expert.assign(static_cast<std::size_t>(tokens * top_k), -1);
    weight.assign(expert.size(), kPoison);
  }
  void run(Runner& r) {
    args.logits = logits.view();
    args.expert = expert;
    args.weight = weight;
    EXPECT_OK(r.ops().moe_gate(args, *r.stream));
  }
};

// The choice by sorting everything, in double.
std::vector<i32> brute_force(const Gate& g, i64 t) {
  const i64 experts = g.logits.shape[1], size = experts / g.args.groups;
  std::vector<double> choice;
  for (i64 e = 0; e < experts; ++e) {
    const float s = 1.0f / (1.0f + std::exp(-g.logits.get(t * experts + e)));
    choice.push_back(static_cast<double>(g.args.bias ? s + g.bias.get(e) : s));
  }
  const auto order = [](const std::vector<double>& v) {
    std::vector<i32> o(v.size());
    std::iota(o.begin(), o.end(), 0);
    std::stable_sort(o.begin(), o.end(), [&](i32 a, i32 b) { return v[a] > v[b]; });
    return o;
  };
  std::vector<double> groups;
  for (i64 i = 0; i < g.args.groups; ++i) {
    std::vector<double> in(choice.begin() + i * size, choice.begin() + (i + 1) * size);
    std::sort(in.rbegin(), in.rend());
    groups.push_back(
        static_cast<double>(static_cast<float>(in[0]) + (size > 1 ? static_cast<float>(in[1]) : 0.0f)));
  }
  const auto group_order = order(groups);
  std::vector<i32> out;
  for (const i32 e : order(choice)) {
    const auto rank = std::find(group_order.begin(), group_order.end(), e / size) - group_order.begin();
    if (rank < g.args.top_groups && static_cast<int>(out.size()) < g.args.top_k) out.push_back(e);
  }
  return out;
}

TEST(MoeGate, ChoosesAsBruteForceDoesAlsoAmongExactTies) {
  Rng rng(fresh_seed());
  Runner r = Runner::oracle();
  for (const auto& [experts, groups, top_groups, top_k] :
       {std::array<int, 4>{16, 4, 2, 4}, {256, 8, 4, 8}, {8, 1, 1, 2}, {6, 6, 3, 3}}) {
    for (const bool ties : {false, true}) {
      Gate g(65, experts, top_k);
      g.args.groups = groups;
      g.args.top_groups = top_groups;
      g.args.routed_scale = 2.5f;
      for (i64 i = 0; i < 65 * experts; ++i)
        g.logits.set(i, ties ? static_cast<float>(rng.below(3)) : static_cast<float>(rng.normal()));
      for (i64 i = 0; i < experts; ++i)
        g.bias.set(i,
                   ties ? 0.5f * static_cast<float>(rng.below(2)) : static_cast<float>(rng.normal() * 0.1));
      g.args.bias = g.bias.view();
      g.run(r);
      for (i64 t = 0; t < 65; ++t) {
        const std::vector<i32> chosen(g.expert.begin() + t * top_k, g.expert.begin() + (t + 1) * top_k);
        ASSERT_EQ(chosen, brute_force(g, t)) << "token " << t << " of " << experts << " experts";
        double sum = 0, scores = 0;
        for (const i32 e : chosen)
          scores += 1 / (1 + std::exp(-static_cast<double>(g.logits.get(t * experts + e))));
        for (int i = 0; i < top_k; ++i) {
          const double score = 1 / (1 + std::exp(-static_cast<double>(g.logits.get(
                                            t * experts + chosen[static_cast<std::size_t>(i)]))));
          EXPECT_NEAR(static_cast<double>(g.weight[static_cast<std::size_t>(t * top_k + i)]),
                      2.5 * score / scores, 1e-6);
          sum += static_cast<double>(g.weight[static_cast<std::size_t>(t * top_k + i)]);
        }
        EXPECT_NEAR(sum, 2.5, 1e-5);
      }
    }
  }
}

TEST(MoeGate, BiasSteersTheChoiceAndNotTheWeight) {
  Runner r = Runner::oracle();
  Gate g(1, 4, 1);
  g.args.normalise = false;
  for (i64 i = 0; i < 4; ++i) g.logits.set(i, static_cast<float>(i));
  for (i64 i = 0; i < 4; ++i) g.bias.set(i, i == 0 ? 5.0f : 0.0f);
  g.args.bias = g.bias.view();
  g.run(r);
  EXPECT_EQ(g.expert[0], 0);
  EXPECT_FLOAT_EQ(g.weight[0], 0.5f);
}

TEST(MoeGate, SoftmaxWeightsAreThoseOfTheChosenAlone) {
  Runner r = Runner::oracle();
  Gate g(1, 4, 2);
  g.args.scoring = Scoring::kSoftmaxTopK;
  const float logits[] = {1, 3, 2, -1};
  for (i64 i = 0; i < 4; ++i) g.logits.set(i, logits[i]);
  g.run(r);
  EXPECT_EQ(g.expert, (std::vector<i32>{1, 2}));
  EXPECT_NEAR(g.weight[0], 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(g.weight[1], 1 / (1 + std::exp(1.0)), 1e-6);
}

TEST(MoePermute, OrdersByExpertThenTokenAndCombinePutsBack) {
  Rng rng(fresh_seed());
  for (const bool use_oracle : {false, true}) {
    Runner r = use_oracle ? Runner::oracle() : Runner::fast(best_isa());
    for (const i64 tokens : {1, 2, 3, 17, 65}) {
      constexpr int kTop = 3, kExperts = 7;
      constexpr i64 kHidden = 33;
      Tensor x = random_tensor(rng, DType::kF32, {tokens, kHidden}),
             rows(DType::kF32, {tokens * kTop, kHidden});
      std::vector<i32> expert, row_of(static_cast<std::size_t>(tokens * kTop)), end(kExperts);
      std::vector<float> weight;
      for (i64 t = 0; t < tokens; ++t) {
        const i32 first = static_cast<i32>(rng.below(kExperts));
        for (int i = 0; i < kTop; ++i) expert.push_back((first + 2 * i) % kExperts);
        for (int i = 0; i < kTop; ++i) weight.push_back(static_cast<float>(rng.uniform()));
      }
      EXPECT_OK(r.ops().moe_permute({.x = x.view(),
                                     .expert = expert,
                                     .top_k = kTop,
                                     .experts = kExperts,
                                     .rows = rows.view(),
                                     .row_of = row_of,
                                     .expert_end = end},
                                    *r.stream));
      EXPECT_EQ(end.back(), tokens * kTop);
      std::vector<i64> token_of(row_of.size(), -1);
      for (std::size_t i = 0; i < row_of.size(); ++i) {
        const i32 row = row_of[i], e = expert[i];
        EXPECT_GE(row, e == 0 ? 0 : end[static_cast<std::size_t>(e) - 1]);
        EXPECT_LT(row, end[static_cast<std::size_t>(e)]);
        token_of[static_cast<std::size_t>(row)] = static_cast<i64>(i) / kTop;
        for (i64 c = 0; c < kHidden; ++c)
          ASSERT_EQ(rows.get(row * kHidden + c), x.get(static_cast<i64>(i) / kTop * kHidden + c));
      }
      for (int e = 0; e < kExperts; ++e)
        EXPECT_TRUE(std::is_sorted(token_of.begin() + (e == 0 ? 0 : end[static_cast<std::size_t>(e) - 1]),
                                   token_of.begin() + end[static_cast<std::size_t>(e)]));

      for (const bool accumulate : {false, true}) {
        Tensor out = accumulate ? x : Tensor(DType::kF32, {tokens, kHidden});
        MoeCombineArgs combine;
        combine.rows = rows.view();
        combine.row_of = row_of;
        combine.weight = weight;
        combine.top_k = kTop;
        combine.accumulate = accumulate;
        combine.out = out.view();
        EXPECT_OK(r.ops().moe_combine(combine, *r.stream));
        std::vector<float> expected;
        for (i64 i = 0; i < tokens * kHidden; ++i) {
          double w = accumulate ? 1 : 0;
          for (int j = 0; j < kTop; ++j)
            w += static_cast<double>(weight[static_cast<std::size_t>(i / kHidden * kTop + j)]);
          expected.push_back(static_cast<float>(w * static_cast<double>(x.get(i))));
        }
        EXPECT_LT(relative_error(out.values(), expected), 1e-6);
      }
      expert[0] = kExperts;
      EXPECT_FALSE(r.ops().moe_permute({.x = x.view(),
                                        .expert = expert,
                                        .top_k = kTop,
                                        .experts = kExperts,
                                        .rows = rows.view(),
                                        .row_of = row_of,
                                        .expert_end = end},
                                       *r.stream));
    }
  }
}

TEST(KvCopy, CopiesTheFirstTokensOfABlockInEveryLayer) {
  Rng rng(fresh_seed());
  Runner r = Runner::fast(best_isa());
  KvLayout l;
  l.dtype = DType::kBF16;
  l.latent_dim = 4;
  l.rope_dim = 2;
  Tensor a = random_tensor(rng, DType::kBF16, {3, kKvBlockTokens, 6}),
         b = random_tensor(rng, DType::kBF16, {3, kKvBlockTokens, 6});
  const auto before = b.values();
  const std::vector<KvCacheLayer> layers = {{l, a.bytes.data(), 3}, {l, b.bytes.data(), 3}};
  const std::vector<CopyBlock> copies = {{2, 0, 5}};
  EXPECT_OK(r.ops().kv_copy({copies, layers}, *r.stream));
  const i64 block = kKvBlockTokens * 6;
  for (i64 i = 0; i < 3 * block; ++i)
    EXPECT_EQ(b.get(i), before[static_cast<std::size_t>(i < 5 * 6 ? i + 2 * block : i)]);
  EXPECT_EQ(a.get(0), a.get(2 * block));
  EXPECT_FALSE(r.ops().kv_copy({std::vector<CopyBlock>{{3, 0, 5}}, layers}, *r.stream));
}

}  // namespace
}  // namespace trireme::cpu
