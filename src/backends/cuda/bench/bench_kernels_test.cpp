#include "backends/cuda/bench/bench_kernels.h"

#include <gtest/gtest.h>

#include "backends/cuda/bench/shapes.h"
#include "backends/cuda/cuda_backend.h"

namespace trireme::cuda {
namespace {

constexpr double kH200Bandwidth = 4.8e12;  // datasheet

void expect_possible(const KernelAnchor& anchor, double flops, double weight_bytes, double peak) {
  if (anchor.us == 0) return;
  EXPECT_STRNE(anchor.who, "");
  EXPECT_LT(flops / anchor.us * 1e6, peak) << anchor.who << " in " << anchor.us << " us";
  EXPECT_LT(weight_bytes / anchor.us * 1e6, kH200Bandwidth) << anchor.who << " in " << anchor.us << " us";
}

double product(std::initializer_list<i64> factors) {
  double p = 1;
  for (const i64 f : factors) p *= static_cast<double>(f);
  return p;
}

TEST(KernelBenchTable, NoAnchorIsFasterThanTheChip) {
  for (const auto& c : kDenseFp8)
    expect_possible(c.anchor, 2 * product({c.m, c.n, c.k}), product({c.n, c.k}), kDatasheetFp8);
  for (const auto& c : kGrouped)
    expect_possible(c.anchor, 2 * product({c.experts, c.m, c.n, c.k}), product({c.experts, c.n, c.k}),
                    kDatasheetFp8);
  for (const auto& c : kMlaDecode)
    expect_possible(c.anchor, 2 * product({c.seqs, c.fresh, c.context, 128, 1088}),
                    product({c.seqs, c.context, 1152}), kDatasheetBf16);
  for (const auto& c : kMlaPrefill)
    expect_possible(c.anchor, product({c.seqs, c.fresh, c.context, 128, 320}), 0, kDatasheetBf16);
}

TEST(KernelBenchTable, SkewedRowsSpreadEvenlyToo) {
  for (const auto& c : kSkewed) EXPECT_EQ(c.rows % c.experts, 0) << c.what << " " << c.experts;
}

TEST(KernelBench, MeasuresWhatTheFilterNames) {
  if (!cuda_present()) GTEST_SKIP() << "no NVIDIA GPU";
  auto backend = make_cuda_backend();
  ASSERT_TRUE(backend) << backend.error().message;
  KernelBenchOptions options{.filter = "norm + quantise 128", .repeats = 3};
  int started = 0, told = 0;
  options.started = [&](const BenchYardsticks& b) { started += b.copy_bandwidth > 0; };
  options.measured = [&](const KernelTime&) { ++told; };
  const auto done = bench_kernels(**backend, options);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(started, 1);
  EXPECT_EQ(told, 2);  // with and without the addition
  ASSERT_EQ(done->rows.size(), 2u);
  for (const auto& row : done->rows) {
    EXPECT_GT(row.us, 0);
    EXPECT_GT(row.floor_us, 0);
    EXPECT_LT(row.floor_us, row.us);
  }
}

TEST(KernelBench, HoldsASkewedLoadAgainstAnEvenOne) {
  if (!cuda_present()) GTEST_SKIP() << "no NVIDIA GPU";
  auto backend = make_cuda_backend();
  ASSERT_TRUE(backend) << backend.error().message;
  const auto done = bench_kernels(**backend, {.filter = "Zipf V3 down 4 experts 1024 rows", .repeats = 3});
  ASSERT_TRUE(done) << done.error().message;
  ASSERT_EQ(done->rows.size(), 1u);
  EXPECT_GT(done->rows[0].even_us, done->rows[0].floor_us);
  EXPECT_GT(done->rows[0].us, done->rows[0].floor_us);
}

TEST(KernelBench, RefusesAFilterThatNamesNothing) {
  if (!cuda_present()) GTEST_SKIP() << "no NVIDIA GPU";
  auto backend = make_cuda_backend();
  ASSERT_TRUE(backend) << backend.error().message;
  const auto done = bench_kernels(**backend, {.filter = "no kernel is called this", .repeats = 1});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace trireme::cuda
