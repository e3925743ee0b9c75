#include "backends/cuda/bench/judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace trireme::cuda {
namespace {

using testing::ElementsAre;

std::vector<i32> sorted(std::vector<i32> v) {
  std::sort(v.begin(), v.end(), std::greater<>());
  return v;
}

TEST(ZipfSizes, AreAsOneToAHalfToAThird) {
  EXPECT_THAT(sorted(zipf_sizes(4, 2500, 1)), ElementsAre(1200, 600, 400, 300));
  EXPECT_THAT(zipf_sizes(1, 7, 1), ElementsAre(7));
}

TEST(ZipfSizes, AddUpToTheTotalWhateverRoundingLeaves) {
  for (const i64 parts : {1, 2, 3, 4, 9, 32, 64, 257})
    for (const i64 total : {0, 1, 2, 5, 100, 1023, 16384}) {
      const auto sizes = zipf_sizes(parts, total, 5);
      ASSERT_EQ(static_cast<i64>(sizes.size()), parts);
      EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), i64{0}), total) << parts << " parts";
      EXPECT_GE(*std::min_element(sizes.begin(), sizes.end()), 0);
    }
}

TEST(DrawnSizes, LieAStandardDeviationAboutTheMean) {
  EXPECT_THAT(drawn_sizes(4, 1024), ElementsAre(272, 240, 272, 240));
  EXPECT_THAT(drawn_sizes(3, 300), ElementsAre(110, 90, 100));
  EXPECT_THAT(drawn_sizes(1, 7), ElementsAre(7));
}

TEST(DrawnSizes, AddUpToTheTotalAndAreNeverNegative) {
  for (const i64 parts : {1, 2, 9, 64, 256}) {
    for (const i64 total : {1, 5, 64, 1000, 16384}) {
      const auto sizes = drawn_sizes(parts, total);
      ASSERT_EQ(static_cast<i64>(sizes.size()), parts);
      ASSERT_EQ(std::accumulate(sizes.begin(), sizes.end(), i64{0}), total);
      for (const i32 size : sizes) ASSERT_GE(size, 0) << parts << " of " << total;
    }
  }
}

TEST(ZipfSizes, LieInAnOrderThatTheSeedFixes) {
  EXPECT_EQ(zipf_sizes(64, 16384, 5), zipf_sizes(64, 16384, 5));
  EXPECT_NE(zipf_sizes(64, 16384, 5), zipf_sizes(64, 16384, 6));
  EXPECT_EQ(sorted(zipf_sizes(64, 16384, 5)), sorted(zipf_sizes(64, 16384, 6)));
  EXPECT_NE(zipf_sizes(64, 16384, 5), sorted(zipf_sizes(64, 16384, 5)));
}

TEST(OverNeighbours, IsOneOnAPowerLaw) {
  const std::vector<i64> rows = {1, 2, 8, 24, 100};
  std::vector<double> us;
  for (const i64 r : rows) us.push_back(3 * std::sqrt(static_cast<double>(r)));
  const auto ratios = over_neighbours(rows, us);
  EXPECT_EQ(ratios.front(), 0);
  EXPECT_EQ(ratios.back(), 0);
  for (std::size_t i = 1; i + 1 < ratios.size(); ++i) EXPECT_NEAR(ratios[i], 1, 1e-12);
}

TEST(OverNeighbours, FindsACliff) {
  const std::vector<i64> rows = {16, 32, 64, 128};
  const auto ratios = over_neighbours(rows, std::vector<double>{10, 26, 10, 10});
  EXPECT_NEAR(ratios[1], 2.6, 1e-12);
  EXPECT_NEAR(ratios[2], 10 / std::sqrt(260.0), 1e-12);
}

TEST(OverNeighbours, HasNothingToSayOfFewerThanThree) {
  EXPECT_TRUE(over_neighbours({}, {}).empty());
  EXPECT_THAT(over_neighbours(std::vector<i64>{4, 8}, std::vector<double>{1, 9}), ElementsAre(0, 0));
}

TEST(OverMoreRows, SaysWherePaddingWouldBeFaster) {
  EXPECT_THAT(over_more_rows(std::vector<double>{30, 32, 20, 40, 44}), ElementsAre(1.5, 1.6, 1, 1, 1));
  EXPECT_TRUE(over_more_rows({}).empty());
}

}  // namespace
}  // namespace trireme::cuda
