#include "backends/cpu/linear.h"
#include "backends/cpu/test_util.h"

namespace trireme::cpu {
namespace {

class Linear : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(EveryIsa, Linear, testing::ValuesIn(isas()), isa_name);

// x W^T + b in double, from the values as stored.
std::vector<float> reference(const Tensor& x, const Tensor& w, const Tensor* scale, const Tensor* bias) {
  const i64 rows = x.shape.rows(), n = w.shape[0], k = w.shape[1];
  std::vector<float> out;
  for (i64 r = 0; r < rows; ++r) {
    for (i64 c = 0; c < n; ++c) {
      double sum = bias != nullptr ? static_cast<double>(bias->get(c)) : 0.0;
      for (i64 i = 0; i < k; ++i) {
        const double s =
            scale != nullptr ? static_cast<double>(scale->get(c / 128 * ceil_div(k, 128) + i / 128)) : 1.0;
        sum += static_cast<double>(x.get(r * k + i)) * static_cast<double>(w.get(c * k + i)) * s;
      }
      out.push_back(static_cast<float>(sum));
    }
  }
  return out;
}

std::vector<float> run_linear(Runner& r, Tensor& x, const LinearWeight& w) {
  Tensor out(DType::kF32, {x.shape.rows(), w.n});
  EXPECT_OK(r.ops().linear({x.view(), &w, out.view()}, *r.stream));
  return out.values();
}

TEST_P(Linear, AgreesWithTheFormulaForEveryWeightTypeAndOddSizes) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam()), oracle = Runner::oracle();
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const auto& [m, n, k] : {std::array<i64, 3>{1, 16, 64},
                                  {2, 100, 101},
                                  {3, 576, 256},
                                  {17, 33, 7168},
                                  {65, 200, 300},
                                  {7, 1, 2}}) {
      Tensor x = random_tensor(rng, DType::kF32, {m, k}), w = random_tensor(rng, type, {n, k}, 0.5);
      Tensor scale = random_tensor(rng, DType::kF32, {ceil_div(n, 128), ceil_div(k, 128)});
      Tensor bias = random_tensor(rng, DType::kBF16, {n});
      Tensor* const s = type == DType::kF8E4M3 ? &scale : nullptr;
      for (Tensor* b : {static_cast<Tensor*>(nullptr), &bias}) {
        const auto expected = reference(x, w, s, b);
        EXPECT_LT(relative_error(run_linear(oracle, x, oracle.prepared(w, s, b)), expected), 1e-6);
        EXPECT_LT(relative_error(run_linear(fast, x, fast.prepared(w, s, b)), expected),
                  tolerance(type != DType::kF32))
            << to_string(type) << " " << m << " " << n << " " << k;
      }
    }
  }
}

TEST_P(Linear, PreciseProductsRoundNeitherActivationsNorFp8Weights) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam());
  for (const DType type : {DType::kBF16, DType::kF8E4M3}) {
    for (const auto& [m, n, k] :
         {std::array<i64, 3>{1, 16, 64}, {2, 100, 101}, {17, 576, 300}, {65, 129, 4500}}) {
      Tensor x = random_tensor(rng, DType::kF32, {m, k}), w = random_tensor(rng, type, {n, k}, 0.5);
      Tensor scale = random_tensor(rng, DType::kF32, {ceil_div(n, 128), ceil_div(k, 128)});
      Tensor bias = random_tensor(rng, DType::kF32, {n});
      Tensor* const s = type == DType::kF8E4M3 ? &scale : nullptr;
      const LinearWeight p = fast.prepared(w, s, &bias, true);
      const auto all = run_linear(fast, x, p);
      EXPECT_LT(relative_error(all, reference(x, w, s, &bias)), 2e-5)
          << to_string(type) << " " << m << " " << n << " " << k;
      Tensor last(DType::kF32, {1, k});
      std::memcpy(last.bytes.data(), x.f32() + (m - 1) * k, static_cast<std::size_t>(k) * 4);
      EXPECT_EQ(run_linear(fast, last, p), std::vector<float>(all.end() - n, all.end())) << "alone";
    }
  }
}

TEST_P(Linear, ReadsF16Weights) {
  Runner fast = Runner::fast(GetParam()), oracle = Runner::oracle();
  Tensor w(DType::kBF16, {3, 5}), x(DType::kF32, {1, 5});
  w.dtype = DType::kF16;
  for (u16 i = 0; i < 15; ++i)
    reinterpret_cast<u16*>(w.bytes.data())[i] = static_cast<u16>(0x3c00 + 0x100 * i);
  for (i64 i = 0; i < 5; ++i) x.set(i, static_cast<float>(i + 1));
  const auto expected = reference(x, w, nullptr, nullptr);
  EXPECT_EQ(run_linear(oracle, x, oracle.prepared(w)), expected);
  EXPECT_EQ(run_linear(fast, x, fast.prepared(w)), expected);  // all values are exact in BF16
}

TEST_P(Linear, ReadsStridedRowsAndWritesStridedRows) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam());
  Tensor wide = random_tensor(rng, DType::kF32, {5, 96}), x(DType::kF32, {5, 64}),
         w = random_tensor(rng, DType::kBF16, {40, 64});
  for (i64 r = 0; r < 5; ++r)
    for (i64 i = 0; i < 64; ++i) x.set(r * 64 + i, wide.get(r * 96 + 7 + i));
  const LinearWeight p = fast.prepared(w);
  const auto expected = run_linear(fast, x, p);
  Tensor out(DType::kF32, {5, 50});
  const View in(wide.f32() + 7, DType::kF32, {5, 64}, 96), to(out.f32() + 3, DType::kF32, {5, 40}, 50);
  EXPECT_OK(fast.ops().linear({in, &p, to}, *fast.stream));
  for (i64 r = 0; r < 5; ++r) {
    for (i64 c = 0; c < 50; ++c) {
      const float v = out.get(r * 50 + c);
      if (c >= 3 && c < 43)
        EXPECT_EQ(v, expected[static_cast<std::size_t>(r * 40 + c - 3)]);
      else
        EXPECT_TRUE(std::isnan(v)) << "wrote outside the view";
    }
  }
}

TEST_P(Linear, ARowIsTheSameToTheBitInAnyBatchAndOnAnyNumberOfThreads) {
  Rng rng(fresh_seed());
  Runner one = Runner::fast(GetParam(), 1), two = Runner::fast(GetParam(), 2),
         three = Runner::fast(GetParam(), 3);
  for (const DType type : {DType::kBF16, DType::kF32}) {
    for (const auto& [n, k] : {std::pair<i64, i64>{700, 513}, {130, 9000}, {4096, 512}}) {
      Tensor all = random_tensor(rng, DType::kF32, {300, k}), w = random_tensor(rng, type, {n, k});
      const auto batch = run_linear(two, all, two.prepared(w));
      const LinearWeight p1 = one.prepared(w), p3 = three.prepared(w);
      EXPECT_EQ(run_linear(three, all, p3), batch);
      for (const i64 rows : {1, 2, 5, 16, 77}) {
        Tensor some(DType::kF32, {rows, k});
        const i64 first = static_cast<i64>(rng.below(static_cast<u64>(300 - rows)));
        std::memcpy(some.bytes.data(), all.f32() + first * k, static_cast<std::size_t>(rows * k * 4));
        const std::vector<float> expected(batch.begin() + first * n, batch.begin() + (first + rows) * n);
        EXPECT_EQ(run_linear(one, some, p1), expected) << rows << " rows";
        EXPECT_EQ(run_linear(three, some, p3), expected) << rows << " rows";
      }
    }
  }
}

TEST_P(Linear, HeadsAndExpertsAreTheLinearOfTheirRows) {
  Rng rng(fresh_seed());
  Runner fast = Runner::fast(GetParam()), oracle = Runner::oracle();
  constexpr i64 kMatrices = 9, kTokens = 5, kN = 70, kK = 66;
  std::vector<Tensor> stored;
  GroupWeight group{.n = kN, .k = kK}, group_oracle = group;
  std::vector<LinearWeight>&w = group.each, &w_oracle = group_oracle.each;
  for (i64 i = 0; i < kMatrices; ++i) {
    stored.push_back(random_tensor(rng, DType::kBF16, {kN, kK}));
    w.push_back(fast.prepared(stored.back()));
    w_oracle.push_back(oracle.prepared(stored.back()));
  }
  Tensor x = random_tensor(rng, DType::kF32, {kTokens, kMatrices, kK});
  Tensor a(DType::kF32, {kTokens, kMatrices, kN}), b(DType::kF32, {kTokens, kMatrices, kN});
  EXPECT_OK(fast.ops().head_linear({x.view(), &group, a.view()}, *fast.stream));
  EXPECT_OK(oracle.ops().head_linear({x.view(), &group_oracle, b.view()}, *oracle.stream));
  EXPECT_LT(relative_error(a.values(), b.values()), tolerance(true));
  for (i64 h = 0; h < kMatrices; ++h) {
    Tensor one(DType::kF32, {1, kK});
    std::memcpy(one.bytes.data(), x.f32() + (2 * kMatrices + h) * kK, kK * 4);
    const float* row = a.f32() + (2 * kMatrices + h) * kN;
    EXPECT_EQ(run_linear(fast, one, w[static_cast<std::size_t>(h)]), std::vector<float>(row, row + kN))
        << "head " << h;
  }

  const std::vector<i32> end = {0,  1,  1,  3, 20,
                                20, 21, 45, 45};  // experts without rows at both ends and between
  Tensor rows = random_tensor(rng, DType::kF32, {45, kK}), ga(DType::kF32, {45, kN}),
         gb(DType::kF32, {45, kN});
  EXPECT_OK(fast.ops().grouped_linear({rows.view(), end, &group, ga.view(), {}}, *fast.stream));
  EXPECT_OK(oracle.ops().grouped_linear({rows.view(), end, &group_oracle, gb.view(), {}}, *oracle.stream));
  EXPECT_LT(relative_error(ga.values(), gb.values()), tolerance(true));
  for (i64 r = 0; r < 45; ++r) {
    const auto expert = static_cast<std::size_t>(std::upper_bound(end.begin(), end.end(), r) - end.begin());
    Tensor one(DType::kF32, {1, kK});
    std::memcpy(one.bytes.data(), rows.f32() + r * kK, kK * 4);
    EXPECT_EQ(run_linear(fast, one, w[expert]),
              std::vector<float>(ga.f32() + r * kN, ga.f32() + (r + 1) * kN))
        << "row " << r;
  }
}

TEST(OnednnRoute, AgreesWithOurKernelsForLargeProducts) {
  if (!has_isa(Isa::kAvx512Bf16)) GTEST_SKIP() << "needs AVX512-BF16";
  Rng rng(fresh_seed());
  CpuDevice plain(2, Isa::kAvx512Bf16), with(2, Isa::kAvx512Bf16, true);
  const auto a = plain.make_stream(), b = with.make_stream();
  for (const auto& [m, n, k] :
       {std::array<i64, 3>{32, 200, 101}, {77, 64, 512}, {130, 30, 4500}, {33, 700, 64}}) {
    Tensor x = random_tensor(rng, DType::kF32, {m, k}), stored = random_tensor(rng, DType::kBF16, {n, k}),
           bias = random_tensor(rng, DType::kF32, {n});
    LinearWeight w;
    w.n = n;
    w.k = k;
    w.weight = stored.view();
    w.bias = bias.view();
    EXPECT_OK(prepare(plain, w));
    Tensor ya(DType::kF32, {m, n}), yb(DType::kF32, {m, n});
    EXPECT_OK(linear({x.view(), &w, ya.view()}, *a));
    EXPECT_OK(linear({x.view(), &w, yb.view()}, *b));
    EXPECT_LT(relative_error(yb.values(), ya.values()), 1e-5) << m << " " << n << " " << k;
  }
}

TEST(LinearWeights, AreRefusedByNameWhenTheyCannotBe) {
  Runner fast = Runner::fast(best_isa());
  Rng rng(1);
  Tensor w = random_tensor(rng, DType::kF8E4M3, {130, 10}), scale = random_tensor(rng, DType::kF32, {1, 1});
  LinearWeight p;
  p.n = 130;
  p.k = 10;
  p.weight = w.view();
  p.scale = scale.view();
  const Status s = fast.ops().prepare(fast.backend->device(), p);
  ASSERT_FALSE(s);
  EXPECT_NE(s.error().message.find("[2, 1]"), std::string::npos) << s.error().message;
  Tensor x = random_tensor(rng, DType::kF32, {1, 10}), out(DType::kF32, {1, 130});
  EXPECT_FALSE(fast.ops().linear({x.view(), &p, out.view()}, *fast.stream))
      << "a weight that was not prepared";
}

TEST(LinearWeights, AreCountedToTheByteAndFreed) {
  Runner fast = Runner::fast(best_isa());
  auto& device = static_cast<CpuDevice&>(fast.backend->device());
  Rng rng(1);
  Tensor w = random_tensor(rng, DType::kBF16, {64, 64});
  const i64 before = device.allocated_bytes();
  {
    const LinearWeight p = fast.prepared(w);
    EXPECT_EQ(device.allocated_bytes() - before, 64 * 64 * 2);
  }
  EXPECT_EQ(device.allocated_bytes(), before);
  const auto huge = device.allocate(i64{1} << 50);
  ASSERT_FALSE(huge);
  EXPECT_EQ(huge.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(device.allocated_bytes(), before);
}

}  // namespace
}  // namespace trireme::cpu
