// Products of every weight type and shape, alone, one a head, and one an expert.
#include <algorithm>
#include <array>

#include "weights.h"

namespace trireme::ops_test {
namespace {

class Linear : public WithWeights {
 protected:
  // x W^T of both backends. Where the tested one wants quantised rows, the oracle sees what they stand for.
  double off_linear(const Host& x, const LinearWeight& w, const LinearWeight& w_oracle, DType out_type) {
    const i64 rows = x.shape.rows();
    const View in = tested.put_act(x, w.fp8_input ? 0 : x.shape.cols() + 8),
               out = tested.poison(out_type, {rows, w.n}, w.n + 8);
    LinearArgs a{.x = in, .w = &w, .out = out};
    Host seen = x;
    if (w.fp8_input) {
      a.xq = tested.quantised(in);
      a.x = {};
      seen = tested.get(a.xq);
    }
    RUN(tested, tested.ops().linear(a, tested.stream()));
    const View expected = oracle.poison_act({rows, w.n});
    RUN(oracle, oracle.ops().linear({oracle.put_act(seen), &w_oracle, expected}, oracle.stream()));
    return relative_error(tested.get(out), oracle.get(expected));
  }
};
INSTANTIATE_TEST_SUITE_P(Ops, Linear, testing::ValuesIn(backends()), backend_name);

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};

TEST_P(Linear, EveryWeightTypeAndShape) {
  constexpr std::array<i64, 3> kShapes[] = {{1, 16, 64},    {2, 100, 101},   {3, 576, 256}, {17, 33, 1024},
                                            {65, 200, 300}, {7, 1, 2},       {5, 40, 80},   {1, 576, 7168},
                                            {64, 40, 128},  {129, 128, 128}, {8, 264, 520}, {130, 384, 1408}};
  for (const DType type : kTypes) {
    for (const auto& [m, n, k] : kShapes) {
      const Stored s = stored(type, n, k);
      const Host x = act({m, k}), bias = random_host(rng, DType::kF32, {n});
      for (const Host* b : {static_cast<const Host*>(nullptr), &bias}) {
        const LinearWeight w = prepared(tested, s, b), w_oracle = prepared(oracle, s, b);
        for (const DType out : {tested.act(), DType::kF32}) {
          EXPECT_LT(off_linear(x, w, w_oracle, out), kProduct)
              << to_string(type) << " [" << n << ", " << k << "], " << m << " rows to " << to_string(out)
              << (w.fp8_input ? ", quantised" : "") << (b != nullptr ? ", bias" : "");
        }
        tested.clear();
        oracle.clear();
      }
    }
  }
}

TEST_P(Linear, PreciseProductsAreNearlyFloat32) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const auto& [m, n, k] :
         {std::array<i64, 3>{1, 16, 64}, {2, 8, 101}, {17, 256, 7168}, {65, 160, 512}}) {
      const Stored s = stored(type, n, k);
      const LinearWeight w = prepared(tested, s, nullptr, true), w_oracle = prepared(oracle, s);
      EXPECT_LT(off_linear(act({m, k}), w, w_oracle, DType::kF32), 3e-5)
          << to_string(type) << " [" << n << ", " << k << "], " << m << " rows";
      tested.clear();
      oracle.clear();
    }
  }
}

TEST_P(Linear, PartsAreStackedByBackendsThatStack) {
  if (!tested.backend().stacks()) GTEST_SKIP() << "this backend does not stack";
  for (const DType type : kTypes) {
    constexpr i64 kK = 320, kRows[] = {256, 128, 72};
    std::vector<Stored> parts;
    LinearWeight w;
    w.k = kK;
    for (const i64 n : kRows) {
      parts.push_back(stored(type, n, kK));
      w.n += n;
    }
    for (const Stored& p : parts) w.parts.push_back(p.view());
    prepare(tested, w);
    const Host x = act({9, kK});
    Quantised xq;
    const View in = tested.put_act(x), out = tested.poison_act({9, w.n});
    Host seen = x;
    if (w.fp8_input) {
      xq = tested.quantised(in);
      seen = tested.get(xq);
    }
    RUN(tested, tested.ops().linear({w.fp8_input ? View{} : in, &w, out, xq}, tested.stream()));
    const Host got = tested.get(out);
    i64 first = 0;
    for (const Stored& p : parts) {
      const LinearWeight alone = prepared(oracle, p);
      const View expected = oracle.poison_act({9, alone.n});
      RUN(oracle, oracle.ops().linear({oracle.put_act(seen), &alone, expected}, oracle.stream()));
      Host columns(DType::kF32, {9, alone.n});
      for (i64 i = 0; i < columns.size(); ++i)
        columns.set(i, got.get(i / alone.n * w.n + first + i % alone.n));
      EXPECT_LT(relative_error(columns, oracle.get(expected)), kProduct)
          << to_string(type) << ", rows from " << first;
      first += alone.n;
    }
    tested.clear();
    oracle.clear();
  }
}

TEST_P(Linear, HeadsHaveTheirOwnMatrices) {
  struct Shape {
    i64 tokens, heads, n, k;
  };
  for (const DType type : group_types()) {
    for (const Shape s : {Shape{5, 9, 70, 66}, {1, 16, 512, 128}, {33, 4, 128, 512}, {3, 1, 16, 8}}) {
      if (type == DType::kF8E4M3 && s.k % 128 != 0) continue;
      std::vector<Stored> each;
      for (i64 h = 0; h < s.heads; ++h) each.push_back(stored(type, s.n, s.k));
      const GroupWeight w = prepared_group(tested, each, true), w_oracle = prepared_group(oracle, each, true);
      const Host x = act({s.tokens, s.heads, s.k});
      EXPECT_LT(off([&](Rig& r) {  // x is a part of each head's row
                  const View out = r.poison_act({s.tokens, s.heads, s.n});
                  RUN(r, r.ops().head_linear({r.put_act(x, s.k + 64), &r == &tested ? &w : &w_oracle, out},
                                             r.stream()));
                  return r.get(out);
                }),
                kProduct)
          << to_string(type) << ", " << s.heads << " heads of [" << s.n << ", " << s.k << "]";
    }
  }
}

TEST_P(Linear, TransposedGroupsAreStoredTheOtherWayAround) {
  SKIP_WITHOUT(tested, prepare_group);
  constexpr i64 kHeads = 4, kN = 512, kK = 128, kTokens = 6;
  for (const DType type : group_types()) {
    std::vector<Stored> each, straight;
    for (i64 h = 0; h < kHeads; ++h) {
      each.push_back(stored(type, kK, kN));
      straight.push_back(turned(each.back()));
    }
    const GroupWeight w = prepared_transposed(tested, each),
                      w_oracle = prepared_group(oracle, straight, true);
    const Host x = act({kTokens, kHeads, kK});
    EXPECT_LT(off([&](Rig& r) {
                const View out = r.poison_act({kTokens, kHeads, kN});
                RUN(r, r.ops().head_linear({r.put_act(x), &r == &tested ? &w : &w_oracle, out}, r.stream()));
                return r.get(out);
              }),
              kProduct)
        << to_string(type);
  }
}

TEST_P(Linear, ExpertsMultiplyTheirRows) {
  struct Shape {
    i64 n, k;
    std::vector<i32> end;
  };
  std::vector<i32> many;  // one row for every other of 16 experts, then none
  for (i32 e = 0; e < 16; ++e) many.push_back((e + 1) / 2);
  std::vector<i32> last(8, 0);
  last.back() = 150;
  const Shape shapes[] = {
      {70, 66, {0, 1, 1, 3, 20, 20, 21, 45, 45}},  // without rows at both ends and between
      {256, 384, {0, 0, 130, 130}},                // all to one
      {128, 256, last},
      {512, 128, many},
      {96, 144, {7, 12}},
      {256, 128, {5, 64, 193, 194, 400, 401, 401, 529}}};
  for (const DType type : group_types()) {
    for (const Shape& s : shapes) {
      std::vector<Stored> each;
      for (std::size_t e = 0; e < s.end.size(); ++e) each.push_back(stored(type, s.n, s.k));
      const GroupWeight w = prepared_group(tested, each, false),
                        w_oracle = prepared_group(oracle, each, false);
      const i64 rows = s.end.back();
      // Rows that belong to no expert follow, as when the host knows a bound only.
      const Host x = act({rows + 3, s.k});
      const View in = tested.put_act(x), out = tested.poison_act({rows + 3, s.n});
      GroupedLinearArgs a{.x = in, .expert_end = tested.put(s.end), .w = &w, .out = out};
      Host seen = x;
      if (w.fp8_input) {
        a.xq = tested.quantised(in);
        a.x = {};
        seen = tested.get(a.xq);
      }
      RUN(tested, tested.ops().grouped_linear(a, tested.stream()));
      const View expected = oracle.poison_act({rows + 3, s.n});
      RUN(oracle, oracle.ops().grouped_linear({oracle.put_act(seen), oracle.put(s.end), &w_oracle, expected},
                                              oracle.stream()));
      Host got = tested.get(out), want = oracle.get(expected);
      got.shape = want.shape = {rows, s.n};
      EXPECT_LT(relative_error(got, want), kProduct)
          << to_string(type) << ", " << s.end.size() << " experts of [" << s.n << ", " << s.k << "], " << rows
          << " rows" << (w.fp8_input ? ", quantised" : "");
      tested.clear();
      oracle.clear();
    }
  }
}

}  // namespace
}  // namespace trireme::ops_test
