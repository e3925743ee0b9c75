#include "backends/cpu/test_util.h"

namespace trireme::cpu {
namespace {

class Elementwise : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(EveryIsa, Elementwise, testing::ValuesIn(isas()), isa_name);

constexpr std::array<i64, 5> kTokens = {1, 2, 3, 17, 65};
constexpr std::array<i64, 4> kWidths = {1, 64, 100, 513};

TEST_P(Elementwise, RmsNormIsTheFormula) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam()), oracle = Runner::oracle();
  for (const i64 rows : kTokens) {
    for (const i64 n : kWidths) {
      for (const DType t : {DType::kF32, DType::kBF16}) {
        Tensor x = random_tensor(rng, DType::kF32, {rows, n}), w = random_tensor(rng, t, {n});
        std::vector<float> expected;
        for (i64 r = 0; r < rows; ++r) {
          double square = 0;
          for (i64 i = 0; i < n; ++i) square += std::pow(static_cast<double>(x.get(r * n + i)), 2);
          for (i64 i = 0; i < n; ++i)
            expected.push_back(static_cast<float>(static_cast<double>(x.get(r * n + i)) /
                                                  std::sqrt(square / static_cast<double>(n) + 1e-3) *
                                                  static_cast<double>(w.get(i))));
        }
        for (Runner* r : {&fast, &oracle}) {
          Tensor out(DType::kF32, {rows, n});
          EXPECT_OK(r->ops().rms_norm({x.view(), w.view(), out.view(), 1e-3f}, *r->stream));
          EXPECT_LT(relative_error(out.values(), expected), 1e-6) << rows << " x " << n;
        }
      }
    }
  }
}

TEST_P(Elementwise, SwigluIsTheFormulaAlsoFarFromZero) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam()), oracle = Runner::oracle();
  for (const i64 rows : kTokens) {
    for (const i64 n : kWidths) {
      Tensor x = random_tensor(rng, DType::kF32, {rows, 2 * n}, 4);
      x.set(0, 200);
      std::vector<float> expected;
      for (i64 r = 0; r < rows; ++r) {
        for (i64 i = 0; i < n; ++i) {
          const double g = static_cast<double>(x.get(r * 2 * n + i));
          expected.push_back(
              static_cast<float>(g / (1 + std::exp(-g)) * static_cast<double>(x.get(r * 2 * n + n + i))));
        }
      }
      for (Runner* r : {&fast, &oracle}) {
        Tensor out(DType::kF32, {rows, n});
        EXPECT_OK(r->ops().swiglu({x.view(), out.view()}, *r->stream));
        EXPECT_LT(relative_error(out.values(), expected), 1e-6) << rows << " x " << n;
      }
    }
  }
  Tensor low(DType::kF32, {1, 2}), out(DType::kF32, {1, 1});
  low.set(0, -500);
  low.set(1, 1);
  EXPECT_OK(fast.ops().swiglu({low.view(), out.view()}, *fast.stream));
  EXPECT_NEAR(out.get(0), 0, 1e-30);
}

TEST_P(Elementwise, AddAndEmbeddingAndGatherMoveExactValues) {
  Rng rng(fresh_seed());
  for (const bool use_oracle : {false, true}) {
    Runner r = use_oracle ? Runner::oracle() : Runner::fast(GetParam());
    for (const i64 rows : kTokens) {
      for (const i64 n : kWidths) {
        for (const DType t : {DType::kF32, DType::kBF16}) {
          Tensor table = random_tensor(rng, t, {29, n}), a(DType::kF32, {rows, n}), b(DType::kF32, {rows, n});
          std::vector<i32> ids;
          for (i64 i = 0; i < rows; ++i) ids.push_back(static_cast<i32>(rng.below(29)));
          EXPECT_OK(r.ops().embedding({ids, table.view(), a.view()}, *r.stream));
          if (t == DType::kF32) {
            EXPECT_OK(r.ops().gather_rows({table.view(), ids, b.view()}, *r.stream));
            EXPECT_EQ(a.values(), b.values());
          }
          for (i64 i = 0; i < rows * n; ++i)
            ASSERT_EQ(a.get(i), table.get(ids[static_cast<std::size_t>(i / n)] * n + i % n));
          Tensor y = random_tensor(rng, DType::kF32, {rows, n});
          const auto before = a.values();
          EXPECT_OK(r.ops().add({a.view(), y.view()}, *r.stream));
          for (i64 i = 0; i < rows * n; ++i)
            ASSERT_EQ(a.get(i), before[static_cast<std::size_t>(i)] + y.get(i));
        }
      }
    }
    Tensor table = random_tensor(rng, DType::kF32, {29, 4}), out(DType::kF32, {1, 4});
    EXPECT_FALSE(r.ops().embedding({std::vector<i32>{29}, table.view(), out.view()}, *r.stream));
    EXPECT_FALSE(r.ops().embedding({std::vector<i32>{-1}, table.view(), out.view()}, *r.stream));
  }
}

TEST_P(Elementwise, RopeRotatesThePairsOfItsStyleAndLeavesTheRest) {
  Rng rng(fresh_seed());
  for (const bool use_oracle : {false, true}) {
    Runner r = use_oracle ? Runner::oracle() : Runner::fast(GetParam());
    for (const bool interleaved : {false, true}) {
      constexpr i64 kHeads = 3, kWide = 20, kDim = 12, kOffset = 5;
      for (const i64 tokens : kTokens) {
        Tensor x = random_tensor(rng, DType::kF32, {tokens, kHeads, kWide}), table(DType::kF32, {50, kDim});
        std::vector<i32> positions;
        for (i64 t = 0; t < tokens; ++t) positions.push_back(static_cast<i32>(rng.below(50)));
        const auto angle = [](i64 p, i64 i) {
          return static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / kDim);
        };
        for (i64 p = 0; p < 50; ++p) {
          for (i64 i = 0; i < kDim / 2; ++i) {
            table.set(p * kDim + i, static_cast<float>(std::cos(angle(p, i))));
            table.set(p * kDim + kDim / 2 + i, static_cast<float>(std::sin(angle(p, i))));
          }
        }
        std::vector<float> expected = x.values();
        for (i64 row = 0; row < tokens * kHeads; ++row) {
          for (i64 i = 0; i < kDim / 2; ++i) {
            const i64 a = row * kWide + kOffset + (interleaved ? 2 * i : i),
                      b = interleaved ? a + 1 : a + kDim / 2;
            const double w = angle(positions[static_cast<std::size_t>(row / kHeads)], i);
            const double u = static_cast<double>(x.get(a)), v = static_cast<double>(x.get(b));
            expected[static_cast<std::size_t>(a)] = static_cast<float>(u * std::cos(w) - v * std::sin(w));
            expected[static_cast<std::size_t>(b)] = static_cast<float>(u * std::sin(w) + v * std::cos(w));
          }
        }
        RopeArgs args;
        args.x = x.view();
        args.offset = kOffset;
        args.dim = kDim;
        args.positions = positions;
        args.cos_sin = table.view();
        args.interleaved = interleaved;
        EXPECT_OK(r.ops().rope(args, *r.stream));
        EXPECT_LT(relative_error(x.values(), expected), 1e-6);
        positions[0] = 50;
        EXPECT_FALSE(r.ops().rope(args, *r.stream));
      }
    }
  }
}

TEST(Backends, FillEveryRowOfTheTable) {
  const Runner runners[] = {Runner::oracle(), Runner::fast(best_isa())};
  for (const Runner& r : runners) {
    const Ops& o = r.ops();
    EXPECT_TRUE(o.prepare && o.embedding && o.rms_norm && o.add && o.linear && o.head_linear && o.swiglu &&
                o.rope && o.mla_append && o.mla_gather && o.mla_absorbed && o.mla_expanded && o.gqa_append &&
                o.gqa_attention && o.moe_gate && o.moe_permute && o.grouped_linear && o.moe_combine &&
                o.gather_rows && o.kv_copy && o.sample);
    EXPECT_EQ(r.backend->act(), DType::kF32);
  }
  CpuOptions none;
  none.threads = -1;
  EXPECT_FALSE(make_cpu_backend(none));
}

}  // namespace
}  // namespace trireme::cpu
