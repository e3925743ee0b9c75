// What products do besides multiplying: residuals, weights of rows, SwiGLU. Each against its parts on the
// oracle.
#include <array>

#include "weights.h"

namespace trireme::ops_test {
namespace {

// An input as a weight wants it, and what the oracle has to see instead.
struct Given {
  View x;
  Quantised xq;
  Host seen;
};

class Fused : public WithWeights {
 protected:
  Given give(const Host& x, bool fp8_input) {
    Given g{tested.put_act(x), {}, x};
    if (!fp8_input) return g;
    g.xq = tested.quantised(g.x);
    g.seen = tested.get(g.xq);
    g.x = {};
    return g;
  }
  // silu(gate) * up of what the oracle multiplied.
  Host swiglu_on_oracle(const View& gate_up) {
    const View out = oracle.poison_act({gate_up.shape.rows(), gate_up.shape.cols() / 2});
    RUN(oracle, oracle.ops().swiglu({.gate_up = gate_up, .out = out}, oracle.stream()));
    return oracle.get(out);
  }
  // The first rows of a Host.
  static Host first(Host h, i64 rows) {
    h.shape = {rows, h.shape.cols()};
    return h;
  }
};
INSTANTIATE_TEST_SUITE_P(Ops, Fused, testing::ValuesIn(backends()), backend_name);

TEST_P(Fused, ResidualsAreAddedToProducts) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const auto& [m, n, k] : {std::array<i64, 3>{1, 16, 64}, {17, 33, 100}, {130, 384, 1408}}) {
      const Stored s = stored(type, n, k);
      const Host bias = random_host(rng, DType::kF32, {n}), x = act({m, k});
      for (const Host* b : {static_cast<const Host*>(nullptr), &bias}) {
        const LinearWeight w = prepared(tested, s, b), w_oracle = prepared(oracle, s, b);
        for (const DType out_type : {tested.act(), DType::kF32}) {
          for (const bool in_place : {false, true}) {
            const Given g = give(x, w.fp8_input);
            const Host before = random_host(rng, out_type, {m, n}, 20);
            const View residual = tested.put(before, out_type, n + 8),
                       out = in_place ? residual : tested.poison(out_type, {m, n}, n + 16);
            RUN(tested, tested.ops().linear({.x = g.x, .w = &w, .out = out, .xq = g.xq, .residual = residual},
                                            tested.stream()));
            const View expected = oracle.put_act(before);
            RUN(oracle,
                oracle.ops().linear(
                    {.x = oracle.put_act(g.seen), .w = &w_oracle, .out = expected, .residual = expected},
                    oracle.stream()));
            EXPECT_LT(relative_error(tested.get(out), oracle.get(expected)), kProduct)
                << to_string(type) << " [" << n << ", " << k << "], " << m << " rows to "
                << to_string(out_type) << (in_place ? ", in place" : "") << (b != nullptr ? ", bias" : "");
          }
        }
        tested.clear();
        oracle.clear();
      }
    }
  }
}

TEST_P(Fused, ExpertsWeighTheirRows) {
  const std::vector<i32> end = {0, 1, 65, 65, 194, 200};
  const i64 rows = end.back();
  for (const DType type : group_types()) {
    for (const auto& [n, k] : {std::array<i64, 2>{70, 66}, {256, 384}}) {
      std::vector<Stored> each;
      for (std::size_t e = 0; e < end.size(); ++e) each.push_back(stored(type, n, k));
      const GroupWeight w = prepared_group(tested, each, false),
                        w_oracle = prepared_group(oracle, each, false);
      std::vector<float> weight;
      for (i64 i = 0; i < rows + 3; ++i) weight.push_back(static_cast<float>(rng.uniform()));
      const Given g = give(act({rows + 3, k}), w.fp8_input);
      const View out = tested.poison_act({rows + 3, n}), expected = oracle.poison_act({rows + 3, n});
      RUN(tested, tested.ops().grouped_linear({.x = g.x,
                                               .expert_end = tested.put(end),
                                               .w = &w,
                                               .out = out,
                                               .xq = g.xq,
                                               .row_weight = tested.put(weight)},
                                              tested.stream()));
      RUN(oracle,
          oracle.ops().grouped_linear(
              {.x = oracle.put_act(g.seen), .expert_end = oracle.put(end), .w = &w_oracle, .out = expected},
              oracle.stream()));
      Host want = first(oracle.get(expected), rows);
      for (i64 i = 0; i < want.size(); ++i)
        want.set(i, want.get(i) * weight[static_cast<std::size_t>(i / n)]);
      EXPECT_LT(relative_error(first(tested.get(out), rows), want), kProduct)
          << to_string(type) << " [" << n << ", " << k << "]";
      tested.clear();
      oracle.clear();
    }
  }
}

TEST_P(Fused, SwigluOfAProductIsItsParts) {
  SKIP_WITHOUT(tested, linear_swiglu);
  for (const DType type : {DType::kBF16, DType::kF8E4M3}) {
    for (const auto& [m, n, k] :
         {std::array<i64, 3>{1, 128, 256}, {17, 48, 128}, {77, 384, 1408}, {300, 256, 640}}) {
      Stored s = stored(type, 2 * n, k);
      const Host bias = random_host(rng, DType::kF32, {2 * n});
      for (const Host* b : {static_cast<const Host*>(nullptr), &bias}) {
        const LinearWeight w = prepared(tested, s, b), w_oracle = prepared(oracle, s, b);
        const Given g = give(act({m, k}, 0.1), w.fp8_input);
        const View sums = oracle.poison_act({m, 2 * n});
        RUN(oracle,
            oracle.ops().linear({.x = oracle.put_act(g.seen), .w = &w_oracle, .out = sums}, oracle.stream()));
        const Host want = swiglu_on_oracle(sums);
        for (const int form : {1, 2, 3}) {  // values, quantised rows, both
          LinearSwigluArgs a{.x = g.x, .w = &w, .gate_up = tested.poison_act({m, 2 * n}), .xq = g.xq};
          if (form & 1) a.out = tested.poison_act({m, n}, n + 8);
          if (form & 2) a.q = tested.poison_quantised(m, n);
          RUN(tested, tested.ops().linear_swiglu(a, tested.stream()));
          if (form & 1) {
            EXPECT_LT(relative_error(tested.get(a.out), want), 2 * kProduct)
                << to_string(type) << " [" << 2 * n << ", " << k << "], " << m << " rows";
          }
          if (form & 2) {
            EXPECT_LT(relative_error(tested.get(a.q), want), kFp8)
                << to_string(type) << " [" << 2 * n << ", " << k << "], " << m << " rows, quantised";
          }
        }
        tested.clear();
        oracle.clear();
      }
    }
  }
}

TEST_P(Fused, SwigluOfExpertsIsItsParts) {
  SKIP_WITHOUT(tested, grouped_linear_swiglu);
  const std::vector<i32> end = {5, 64, 193, 194, 400, 401, 401, 529};
  const i64 rows = end.back();
  for (const DType type : group_types()) {
    for (const auto& [n, k] : {std::array<i64, 2>{48, 128}, {256, 384}, {384, 144}}) {
      std::vector<Stored> each;
      for (std::size_t e = 0; e < end.size(); ++e) each.push_back(stored(type, 2 * n, k));
      const GroupWeight w = prepared_group(tested, each, false),
                        w_oracle = prepared_group(oracle, each, false);
      const Given g = give(act({rows + 3, k}, 0.1), w.fp8_input);
      const View sums = oracle.put_act(random_host(rng, DType::kF32, {rows + 3, 2 * n}));
      RUN(oracle,
          oracle.ops().grouped_linear(
              {.x = oracle.put_act(g.seen), .expert_end = oracle.put(end), .w = &w_oracle, .out = sums},
              oracle.stream()));
      const Host want = first(swiglu_on_oracle(sums), rows);
      GroupedLinearSwigluArgs a{.x = g.x,
                                .expert_end = tested.put(end),
                                .w = &w,
                                .gate_up = tested.poison_act({rows + 3, 2 * n}),
                                .xq = g.xq};
      a.out = tested.poison_act({rows + 3, n});
      a.q = tested.poison_quantised(rows + 3, n);
      RUN(tested, tested.ops().grouped_linear_swiglu(a, tested.stream()));
      EXPECT_LT(relative_error(first(tested.get(a.out), rows), want), 2 * kProduct)
          << to_string(type) << " [" << 2 * n << ", " << k << "]";
      EXPECT_LT(relative_error(first(tested.get(a.q), rows), want), kFp8)
          << to_string(type) << " [" << 2 * n << ", " << k << "], quantised";
      tested.clear();
      oracle.clear();
    }
  }
}

}  // namespace
}  // namespace trireme::ops_test
