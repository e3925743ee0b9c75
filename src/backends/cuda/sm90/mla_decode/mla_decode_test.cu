#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cuda/sm90/mla_decode/mla_decode_fixture.cuh"

namespace trireme::cuda {
namespace {

class MlaDecode : public testing::Test {
 protected:
  void SetUp() override {
    int n = 0, major = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) GTEST_SKIP() << "no GPU here";
    MLA_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    if (major != 9) GTEST_SKIP() << "the kernel is for Hopper";
  }
};

// Runs the batch and compares every row with the reference; rows of padding must be untouched. q_scale: what
// the batch was made with.
void check(DeviceBatch& d, float q_scale = 0.3f) {
  const std::int64_t max_context = std::int64_t{d.b.max_pages} * 64;
  d.out.poison();
  d.lse.poison();
  d.workspace.poison();
  d.plan.poison();
  d.plan_args.tree = d.args.tree_mask != nullptr;
  d.plan_args.shape = d.args.shape;
  ASSERT_EQ(mla_decode_plan(d.plan_args, nullptr), cudaSuccess);
  ASSERT_EQ(mla_decode(d.args, nullptr), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  DeviceArray<float> scores(static_cast<std::size_t>(d.rows * max_context));
  DeviceArray<float> expected(static_cast<std::size_t>(d.rows * 512)),
      expected_lse(static_cast<std::size_t>(d.rows));
  reference_kernel<<<static_cast<unsigned>(d.rows), 256>>>(
      d.view(), d.q_latent.get(), d.ql_stride, d.q_rope.get() + 128, d.qr_stride, d.token_seq.get(),
      d.q_start.get(), d.context.get(), d.args.tree_mask, d.args.shape.heads, d.args.scale, scores.get(),
      max_context, expected.get(), expected_lse.get());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const auto out = d.out.host();
  const auto lse = d.lse.host(), want = expected.host(), want_lse = expected_lse.host();
  double error = 0, norm = 0, worst_row = 0, worst_lse = 0;
  std::int64_t worst_at = -1;
  for (std::int64_t r = 0; r < d.rows; ++r) {
    const int token = static_cast<int>(r / d.args.shape.heads);
    if (d.b.token_seq[static_cast<std::size_t>(token)] < 0) {
      for (int c = 0; c < 512; ++c)
        ASSERT_TRUE(std::isnan(__bfloat162float(out[static_cast<std::size_t>(r * 512 + c)])))
            << "padding row " << r;
      continue;
    }
    double row_error = 0, row_norm = 0;
    for (int c = 0; c < 512; ++c) {
      const double x = __bfloat162float(out[static_cast<std::size_t>(r * 512 + c)]);
      const double y = want[static_cast<std::size_t>(r * 512 + c)];
      row_error += (x - y) * (x - y);
      row_norm += y * y;
    }
    error += row_error;
    norm += row_norm;
    const double relative = std::sqrt(row_error / row_norm);
    if (!(relative <= worst_row)) worst_row = relative, worst_at = r;
    const double off = std::fabs(lse[static_cast<std::size_t>(r)] - want_lse[static_cast<std::size_t>(r)]);
    if (!(off <= worst_lse)) worst_lse = off;
  }
  if (norm == 0) return;
  // A probability in e4m3 is off by up to 1/16, in the mean by 1/40.
  EXPECT_LT(std::sqrt(error / norm), d.fp8 ? 3e-2 : 4e-3) << "heads " << d.args.shape.heads;
  EXPECT_LT(worst_row, d.fp8 ? 7e-2 : 1e-2)
      << "row " << worst_at << " of " << d.rows << ", heads " << d.args.shape.heads;
  // A sum of 576 products in e4m3's tensor cores keeps 14 bits, of scores that are larger for larger q.
  EXPECT_LT(worst_lse, d.fp8 ? 1e-2f * std::max(1.0f, q_scale / 0.3f) : 2e-3)
      << "heads " << d.args.shape.heads;
  if (d.fp8)
    std::printf("fp8: off by %.4f, worst row %.4f, lse %.5f\n", std::sqrt(error / norm), worst_row,
                worst_lse);
}

std::uint32_t fresh_seed() {
  const std::uint32_t seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  return seed;
}

const std::vector<int> kHeads = {1, 3, 4, 16, 64, 128};

TEST_F(MlaDecode, OneTokenEachOfRaggedContexts) {
  const std::uint32_t seed = fresh_seed();
  for (const int heads : kHeads) {
    DeviceBatch d(Batch({{1, 1}, {63, 1}, {64, 1}, {65, 1}, {0, 1}, {1500, 1}, {8193, 1}, {128, 1}, {129, 1}},
                        heads, seed),
                  false, 0.3f, seed);
    check(d);
  }
}

TEST_F(MlaDecode, ManySequencesShareEachPart) {
  const std::uint32_t seed = fresh_seed();
  std::mt19937 rng(seed);
  for (const int heads : {16, 128}) {
    for (const bool fp8 : {false, true}) {
      std::vector<SequenceSpec> specs;
      for (int i = 0; i < 300; ++i) specs.push_back({static_cast<int>(rng() % 700), 1});
      for (int i = 0; i < 5; ++i) specs.push_back({static_cast<int>(1 + rng() % 7000), 1});
      DeviceBatch d(Batch(specs, heads, seed), fp8, 0.3f, seed);
      check(d);
    }
  }
}

// More than 32 units a part.
TEST_F(MlaDecode, ManyShortSequences) {
  const std::uint32_t seed = fresh_seed();
  std::mt19937 rng(seed);
  for (const bool fp8 : {false, true}) {
    std::vector<SequenceSpec> specs;
    for (int i = 0; i < 2500; ++i) specs.push_back({static_cast<int>(1 + rng() % 40), 1});
    DeviceBatch d(Batch(specs, 65, seed), fp8, 0.3f, seed);
    check(d);
  }
}

TEST_F(MlaDecode, PaddingAlone) {
  DeviceBatch d(Batch({{0, 1}, {0, 1}, {0, 2}}, 128, 1), false, 0.3f, 1);
  check(d);
}

TEST_F(MlaDecode, SeveralTokensAreCausal) {
  const std::uint32_t seed = fresh_seed();
  for (const bool fp8 : {false, true})
    for (const int heads : kHeads) {
      DeviceBatch d(Batch({{2, 2},
                           {64, 2},
                           {65, 5},
                           {5, 5},
                           {1500, 2},
                           {67, 64},
                           {64, 64},
                           {777, 130},
                           {130, 130},
                           {4000, 1}},
                          heads, seed),
                    fp8, 0.3f, seed);
      check(d);
    }
}

TEST_F(MlaDecode, OneLongContextIsCutAmongAllParts) {
  const std::uint32_t seed = fresh_seed();
  for (const bool fp8 : {false, true}) {
    for (const int heads : {1, 16, 128}) {
      DeviceBatch d(Batch({{30011, 1}}, heads, seed), fp8, 0.3f, seed);
      check(d);
    }
  }
}

// Scores that climb along the context move the reference maximum again and again.
TEST_F(MlaDecode, LargeScoresRescale) {
  const std::uint32_t seed = fresh_seed();
  for (const int heads : {4, 128}) {
    DeviceBatch d(Batch({{1500, 1}, {300, 3}, {4096, 1}}, heads, seed), false, 4.0f, seed);
    check(d);
  }
}

TEST_F(MlaDecode, LargeScoresRescaleOverAnFp8Cache) {
  const std::uint32_t seed = fresh_seed();
  for (const int heads : {4, 128}) {
    DeviceBatch d(Batch({{1500, 1}, {300, 3}, {4096, 1}}, heads, seed), true, 1.5f, seed);
    check(d, 1.5f);
  }
}

TEST_F(MlaDecode, Fp8Cache) {
  const std::uint32_t seed = fresh_seed();
  for (const int heads : {1, 16, 128}) {
    DeviceBatch d(Batch({{1, 1}, {63, 1}, {64, 1}, {65, 2}, {0, 1}, {1500, 1}, {8193, 2}, {129, 5}, {70, 64}},
                        heads, seed),
                  true, 0.3f, seed);
    check(d);
  }
}

// Small enough for compute-sanitizer's racecheck.
TEST_F(MlaDecode, AFewPagesOfEitherCache) {
  const std::uint32_t seed = fresh_seed();
  for (const bool fp8 : {false, true}) {
    for (const int heads : {16, 128}) {
      DeviceBatch d(Batch({{330, 1}, {65, 2}, {1, 1}}, heads, seed), fp8, 0.3f, seed);
      check(d);
    }
  }
}

TEST_F(MlaDecode, TreeMask) {
  const std::uint32_t seed = fresh_seed();
  std::mt19937_64 rng(seed);
  for (const bool fp8 : {false, true}) {
    for (const int heads : {4, 16, 128}) {
      DeviceBatch d(Batch({{100, 8}, {8, 8}, {1503, 13}, {64, 64}, {640, 64}, {70, 1}}, heads, seed), fp8,
                    0.3f, seed);
      std::vector<std::uint64_t> masks;
      for (const SequenceSpec& s : d.b.specs)
        for (int t = 0; t < s.query; ++t) masks.push_back((rng() & rng()) | 1ull << t);
      DeviceArray<std::uint64_t> mask(masks);
      d.args.tree_mask = mask.get();
      check(d);
    }
  }
}

// With 16 heads, rows of other tokens lie beside a token's in its tile.
TEST_F(MlaDecode, NeverSplitDependsOnTheRowAlone) {
  const std::uint32_t seed = fresh_seed();
  for (const bool fp8 : {false, true}) {
    for (const int heads : {16, 128}) {
      for (const float q_scale : {0.3f, 1.0f}) {
        DeviceBatch alone(Batch({{3000, 1}}, heads, seed), fp8, q_scale, seed);
        DeviceBatch among(Batch({{3000, 1}, {77, 3}, {0, 1}, {900, 1}, {64, 1}, {5000, 2}}, heads, seed), fp8,
                          q_scale, seed);
        alone.args.shape.split = among.args.shape.split = MlaSplit::never;
        check(alone, q_scale);
        check(among, q_scale);
        const auto a = alone.out.host(), b = among.out.host();
        EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])), 0)
            << "FP8 " << fp8 << ", heads " << heads;
      }
    }
  }
}

// One page more in the first sequence moves the pages of all others that its part has on in the ring.
TEST_F(MlaDecode, NeverSplitHoldsWhereverAUnitsPagesLie) {
  const std::uint32_t seed = fresh_seed();
  for (const bool fp8 : {false, true}) {
    std::vector<SequenceSpec> specs;
    for (int i = 0; i < 400; ++i) specs.push_back({64 * (1 + i * 7 % 5) - i % 3, 1});
    DeviceBatch once(Batch(specs, 128, seed), fp8, 0.3f, seed);
    specs[0].context += 64;
    DeviceBatch again(Batch(specs, 128, seed), fp8, 0.3f, seed);
    once.args.shape.split = again.args.shape.split = MlaSplit::never;
    check(once);
    check(again);
    const auto a = once.out.host(), b = again.out.host();
    constexpr std::size_t kFirst = 128 * 512;
    EXPECT_EQ(std::memcmp(a.data() + kFirst, b.data() + kFirst, (b.size() - kFirst) * sizeof(a[0])), 0)
        << "FP8 " << fp8;
  }
}

}  // namespace
}  // namespace trireme::cuda
