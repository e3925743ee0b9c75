#include "backends/cuda/bench/tune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "backends/cuda/bench/sweep.h"
#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/heuristics/gemm_tile.h"

namespace trireme::cuda {
namespace {

using testing::ElementsAre;
using testing::Optional;

TuneRow row_of(std::vector<VariantTime> times, int chosen) {
  TuneRow r;
  r.shape = {.what = "a", .m = 64, .n = 128, .k = 256};
  r.times = std::move(times);
  r.chosen = chosen;
  return r;
}

TEST(TuneShapes, HoldTheTablesAndNoProductTwice) {
  const auto shapes = tune_shapes({});
  std::set<std::string> seen;
  bool anchored = false, swept = false, bf16 = false;
  for (const auto& s : shapes) {
    EXPECT_TRUE(seen.insert(fmt::format("{} {} {} {} {}", s.kernel(), s.experts, s.m, s.n, s.k)).second)
        << s.text();
    anchored |= s.kernel() == "gemm_fp8 masked" && s.text() == "V3 gate+up 4 x m512 n4096 k7168";
    swept |= s.kernel() == "gemm_fp8" && s.text() == "V3 kv_b m96 n32768 k512";
    bf16 |= s.kernel() == "gemm_bf16" && s.out_f32;
  }
  EXPECT_TRUE(anchored);
  EXPECT_TRUE(swept);
  EXPECT_TRUE(bf16);
}

TEST(TuneShapes, AreOnlyOfTheRowsThatAreAskedFor) {
  const auto shapes = tune_shapes({48});
  ASSERT_FALSE(shapes.empty());
  for (const auto& s : shapes) EXPECT_EQ(s.m, 48);
  for (const auto& s : tune_shapes({1024})) EXPECT_NE(s.what, "V3 head") << "one row a sequence";
}

TEST(TuneShapes, TilesAreThoseOfTheTable) {
  ASSERT_EQ(variant_tiles(true).size(), std::size(kFp8Tiles));
  ASSERT_EQ(variant_tiles(false).size(), std::size(kBf16Tiles));
  EXPECT_EQ(variant_tiles(true)[0].bm, kFp8Tiles[0].bm);
  EXPECT_EQ((VariantTile{.bm = 128, .bn = 192, .cluster = 2, .split = 1}.text()), "128 x 192 c2 s1");
}

TEST(TuneRow, LossIsOverTheFastestVariant) {
  const auto r = row_of({{0, 12}, {2, 10}, {5, 20}}, 0);
  ASSERT_NE(r.best(), nullptr);
  EXPECT_EQ(r.best()->variant, 2);
  EXPECT_THAT(r.choice_loss(), Optional(testing::DoubleNear(0.2, 1e-12)));
}

TEST(TuneRow, ServingIsHeldAgainstCublasLtToo) {
  auto r = row_of({{0, 12}, {2, 10}}, 2);
  r.cublaslt_us = 8;
  EXPECT_THAT(r.choice_loss(), Optional(0));
  EXPECT_THAT(r.serving_loss(), Optional(0.25));
  r.serving_cublaslt = true;
  EXPECT_THAT(r.serving_loss(), Optional(0));
  r.cublaslt_us = 15;
  EXPECT_THAT(r.serving_loss(), Optional(0.5));
}

TEST(TuneRow, AChosenVariantThatRefusesHasNoLoss) {
  EXPECT_FALSE(row_of({{0, 12}}, 3).choice_loss());
  EXPECT_EQ(row_of({}, 3).best(), nullptr);
  EXPECT_FALSE(row_of({}, 3).serving_loss());
}

TEST(TuneSummary, MeanWorstAndWhatWasRefused) {
  auto far = row_of({{0, 15}, {1, 10}}, 0), refused = row_of({{0, 1}}, 1);
  far.shape.what = "far", refused.shape.what = "refused";
  const auto s = summary_of({row_of({{0, 10}}, 0), far, refused});
  EXPECT_EQ(s.choice.shapes, 2);
  EXPECT_DOUBLE_EQ(s.choice.mean, 0.25);
  EXPECT_DOUBLE_EQ(s.choice.worst, 0.5);
  EXPECT_EQ(s.choice.worst_at, "gemm_fp8 far m64 n128 k256");
  EXPECT_THAT(s.refused, ElementsAre("gemm_fp8 refused m64 n128 k256"));
  EXPECT_EQ(summary_of({}).choice.shapes, 0);
}

TEST(SweepCurve, WorstIsTheHighestOverItsNeighbours) {
  SweepCurve c;
  EXPECT_EQ(c.worst(), nullptr);
  c.points = {{.rows = 1}, {.rows = 2}};
  EXPECT_EQ(c.worst(), nullptr);
  c.points = {{.rows = 1}, {.rows = 2}, {.rows = 4}, {.rows = 8}};
  c.points[1].over_neighbours = 1.1;
  c.points[2].over_neighbours = 1.3;
  ASSERT_NE(c.worst(), nullptr);
  EXPECT_EQ(c.worst()->rows, 4);
  EXPECT_EQ(c.worst_few(), nullptr);
  c.points[0].over_more_rows = 1.2;
  ASSERT_NE(c.worst_few(), nullptr);
  EXPECT_EQ(c.worst_few()->rows, 1);
}

// On the GPU.

TEST(Tune, TimesTheVariantsOfOneShape) {
  if (!cuda_present()) GTEST_SKIP() << "no NVIDIA GPU";
  auto backend = make_cuda_backend();
  ASSERT_TRUE(backend) << backend.error().message;
  int told = 0;
  const auto done = tune_kernels(**backend, {.filter = "gemm_fp8 V3 shared down", .repeats = 3, .rows = {40}},
                                 [&](const TuneRow&) { ++told; });
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(told, 1);
  ASSERT_EQ(done->rows.size(), 1u);
  const TuneRow& r = done->rows[0];
  EXPECT_GT(r.times.size(), 1u);
  ASSERT_TRUE(r.choice_loss()) << "the chosen variant refuses the shape";
  EXPECT_GE(*r.choice_loss(), 0);
  for (const auto& t : r.times) EXPECT_GT(t.us, r.floor_us);
}

TEST(Sweep, MeasuresTheRowsThatAreAskedForInOrder) {
  if (!cuda_present()) GTEST_SKIP() << "no NVIDIA GPU";
  auto backend = make_cuda_backend();
  ASSERT_TRUE(backend) << backend.error().message;
  const auto done =
      sweep_kernels(**backend, {.filter = "down, 4 experts", .repeats = 3, .rows = {128, 3, 40, 3}}, nullptr);
  ASSERT_TRUE(done) << done.error().message;
  ASSERT_EQ(done->curves.size(), 1u);
  const auto& points = done->curves[0].points;
  ASSERT_EQ(points.size(), 3u);
  EXPECT_EQ(points[0].rows, 3);
  EXPECT_EQ(points[2].rows, 128);
  for (const auto& p : points) EXPECT_GT(p.us, p.floor_us);
  EXPECT_GT(points[1].over_neighbours, 0);
}

}  // namespace
}  // namespace trireme::cuda
