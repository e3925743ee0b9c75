// Rows that are moved, normed, activated, rotated and rounded.
#include <array>

#include "rig.h"

namespace trireme::ops_test {
namespace {

constexpr std::array<i64, 5> kTokens = {1, 2, 3, 17, 65};
constexpr std::array<i64, 7> kWidths = {1, 2, 64, 100, 513, 2048, 7168};

class Elementwise : public OnEveryBackend {};
INSTANTIATE_TEST_SUITE_P(Ops, Elementwise, testing::ValuesIn(backends()), backend_name);

TEST_P(Elementwise, EmbeddingAndGatherRowsMoveExactValues) {
  for (const i64 rows : kTokens) {
    for (const i64 n : kWidths) {
      const std::vector<i32> ids = below(rows, 29);
      for (const DType t : {DType::kF32, DType::kBF16}) {
        const Host table = random_host(rng, t, {29, n}).as(tested.act()).as(t);
        EXPECT_EQ(off([&](Rig& r) {
                    const View out = r.poison_act({rows, n}, n + 5);
                    RUN(r, r.ops().embedding({r.put(ids), r.put(table), out}, r.stream()));
                    return r.get(out);
                  }),
                  0)
            << rows << " x " << n << " " << to_string(t);
      }
      const Host x = act({29, n});
      EXPECT_EQ(off([&](Rig& r) {
                  const View out = r.poison_act({rows, n});
                  RUN(r, r.ops().gather_rows({r.put_act(x, n + 3), r.put(ids), out}, r.stream()));
                  return r.get(out);
                }),
                0)
          << rows << " x " << n;
    }
  }
}

TEST_P(Elementwise, RmsNorm) {
  for (const i64 rows : kTokens) {
    for (const i64 n : kWidths) {
      const Host x = act({rows, n}, 3);
      for (const DType t : {DType::kF32, DType::kBF16}) {
        const Host w = random_host(rng, t, {n});
        EXPECT_LT(off([&](Rig& r) {
                    const View out = r.poison_act({rows, n}, n + 8);
                    RUN(r, r.ops().rms_norm({r.put_act(x, n + 7), r.put(w), out, 1e-3f}, r.stream()));
                    return r.get(out);
                  }),
                  rounding())
            << rows << " x " << n;
      }
    }
  }
}

TEST_P(Elementwise, Add) {
  for (const i64 rows : kTokens) {
    for (const i64 n : kWidths) {
      const Host x = act({rows, n}), y = act({rows, n});
      EXPECT_LT(off([&](Rig& r) {
                  const View to = r.put_act(x);
                  RUN(r, r.ops().add({to, r.put_act(y, n + 9)}, r.stream()));
                  return r.get(to);
                }),
                rounding())
          << rows << " x " << n;
    }
  }
}

TEST_P(Elementwise, AddRmsNormIsItsParts) {
  SKIP_WITHOUT(tested, add_rms_norm);
  for (const i64 rows : kTokens) {
    for (const i64 n : kWidths) {
      const Host x = act({rows, n}, 2), y = act({rows, n}), w = random_host(rng, DType::kF32, {n});
      for (const bool added : {true, false}) {
        const View ox = oracle.put_act(x), onorm = oracle.poison_act({rows, n});
        if (added) RUN(oracle, oracle.ops().add({ox, oracle.put_act(y)}, oracle.stream()));
        RUN(oracle, oracle.ops().rms_norm({ox, oracle.put(w), onorm}, oracle.stream()));
        const Host sum = oracle.get(ox), norm = oracle.get(onorm);

        const bool quantisable = n % 16 == 0 && tested.ops().quantise != nullptr;
        for (const int form : {0, 1, 2}) {  // both outputs, the plain one, the quantised one
          if (form != 1 && !quantisable) continue;
          const View tx = tested.put_act(x, added ? 0 : n + 24);
          AddRmsNormArgs a{.x = tx, .y = {}, .weight = tested.put(w), .out = {}};
          if (added) a.y = tested.put_act(y);
          if (form != 2) a.out = tested.poison_act({rows, n});
          if (form != 1) a.q = tested.poison_quantised(rows, n);
          RUN(tested, tested.ops().add_rms_norm(a, tested.stream()));
          EXPECT_LT(relative_error(tested.get(tx), sum), added ? rounding() : 1e-30);
          if (form != 2) {
            EXPECT_LT(relative_error(tested.get(a.out), norm), 1.5 * rounding()) << rows << " x " << n;
          }
          if (form != 1) {
            EXPECT_LT(relative_error(tested.get(a.q), norm), kFp8) << rows << " x " << n;
          }
        }
        tested.clear();
        oracle.clear();
      }
    }
  }
}

TEST_P(Elementwise, QuantiseKeepsTheLargestOfEachBlockAndIsCloseElsewhere) {
  SKIP_WITHOUT(tested, quantise);
  for (const i64 rows : kTokens) {
    for (const i64 k : {16, 64, 128, 144, 576, 7168}) {
      Host x = act({rows, k}, 100);
      for (i64 i = 0; i < std::min<i64>(k, 128); ++i) x.set((rows - 1) * k + i, 0);  // a block of zeros
      const Host got = tested.get(tested.quantised(tested.put_act(x, k + 16)));
      EXPECT_LT(relative_error(got, x), kFp8) << rows << " x " << k;
      for (i64 r = 0; r < rows; ++r) {
        for (i64 begin = 0; begin < k; begin += 128) {
          float largest = 0, kept = 0;
          for (i64 i = r * k + begin; i < r * k + std::min(k, begin + 128); ++i) {
            largest = std::max(largest, std::abs(x.get(i)));
            kept = std::max(kept, std::abs(got.get(i)));
          }
          ASSERT_NEAR(kept, largest, 1e-5f * largest) << "row " << r << ", column " << begin << " of " << k;
        }
      }
      tested.clear();
    }
  }
}

TEST_P(Elementwise, SwigluAlsoFarFromZero) {
  for (const i64 rows : kTokens) {
    for (const i64 n : kWidths) {
      Host x = act({rows, 2 * n}, 4);
      x.set(0, 200);
      if (n > 1) x.set(1, -200);
      const i32 used = static_cast<i32>((rows + 1) / 2);
      EXPECT_LT(off([&](Rig& r) {
                  const View out = r.poison_act({rows, n});
                  RUN(r, r.ops().swiglu({r.put_act(x, 2 * n + 2), out}, r.stream()));
                  return r.get(out);
                }),
                rounding())
          << rows << " x " << n;
      EXPECT_LT(off([&](Rig& r) {  // rows that are not used may be left out
                  const View out = r.poison_act({rows, n});
                  SwigluArgs a{.gate_up = r.put_act(x), .out = out};
                  a.rows_used = r.put(std::vector<i32>{0, used});
                  RUN(r, r.ops().swiglu(a, r.stream()));
                  Host first = r.get(out);
                  first.shape = {used, n};
                  return first;
                }),
                rounding())
          << rows << " x " << n;
      if (n % 16 != 0 || tested.ops().quantise == nullptr) continue;
      EXPECT_LT(off([&](Rig& r) {
                  const View out = r.poison_act({rows, n});
                  SwigluArgs a{.gate_up = r.put_act(x), .out = out};
                  if (&r == &tested) {
                    a.out = {};
                    a.q = r.poison_quantised(rows, n);
                  }
                  RUN(r, r.ops().swiglu(a, r.stream()));
                  return &r == &tested ? r.get(a.q) : r.get(out);
                }),
                kFp8)
          << rows << " x " << n;
    }
  }
}

struct RopeShape {
  i64 heads, width, offset, dim;
};

TEST_P(Elementwise, RopeRotatesThePairsOfItsStyleAndLeavesTheRest) {
  for (const bool interleaved : {false, true}) {
    for (const RopeShape s : {RopeShape{3, 20, 5, 12},
                              {1, 2, 0, 2},
                              {8, 128, 0, 128},
                              {16, 192, 128, 64},
                              {1, 576, 512, 64},
                              {5, 64, 0, 64}}) {
      const Host table = random_host(rng, DType::kF32, {50, s.dim});
      for (const i64 tokens : kTokens) {
        const Host x = act({tokens, s.heads, s.width});
        const std::vector<i32> positions = below(tokens, 50);
        EXPECT_LT(off([&](Rig& r) {
                    const View at = r.put_act(x, s.heads == 1 ? s.width + 64 : 0);
                    RUN(r, r.ops().rope({.x = at,
                                         .offset = s.offset,
                                         .dim = s.dim,
                                         .positions = r.put(positions),
                                         .cos_sin = r.put(table),
                                         .interleaved = interleaved},
                                        r.stream()));
                    return r.get(at);
                  }),
                  rounding())
            << tokens << " tokens, " << s.heads << " heads of " << s.width << ", interleaved " << interleaved;
      }
    }
  }
}

}  // namespace
}  // namespace trireme::ops_test
