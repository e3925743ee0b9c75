#include "cli/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace trireme::cli {
namespace {

using testing::HasSubstr;

RequestRecord good(double ttft, double e2e, i64 tokens, std::vector<float> gaps) {
  RequestRecord r;
  r.ok = r.counted = true;
  r.ttft = ttft;
  r.e2e = e2e;
  r.prompt_tokens = 10;
  r.output_tokens = tokens;
  r.gaps = std::move(gaps);
  return r;
}

TEST(Percentile, InterpolatesAsNumpyDoes) {
  const std::vector<double> v{1, 2, 3, 4};
  EXPECT_DOUBLE_EQ(percentile(v, 0), 1);
  EXPECT_DOUBLE_EQ(percentile(v, 50), 2.5);
  EXPECT_DOUBLE_EQ(percentile(v, 90), 3.7);
  EXPECT_DOUBLE_EQ(percentile(v, 100), 4);
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
  EXPECT_DOUBLE_EQ(percentile({}, 50), 0);
}

TEST(Percentile, ADistributionDoesNotDependOnOrder) {
  const auto d = distribution({4, 1, 3, 2});
  EXPECT_DOUBLE_EQ(d.mean, 2.5);
  EXPECT_DOUBLE_EQ(d.median, 2.5);
  EXPECT_DOUBLE_EQ(d.deviation, std::sqrt(1.25));
  EXPECT_DOUBLE_EQ(d.p90, 3.7);
  EXPECT_DOUBLE_EQ(d.max, 4);
}

TEST(BenchReport, FiguresOfTwoRequests) {
  LoadResult load;
  load.duration = 2;
  load.requests = {good(0.1, 0.5, 5, {0.1F, 0.1F, 0.1F, 0.1F}), good(0.3, 0.3, 1, {})};
  const auto r = make_report(load);
  EXPECT_EQ(r.completed, 2);
  EXPECT_DOUBLE_EQ(r.request_throughput, 1);
  EXPECT_DOUBLE_EQ(r.output_throughput, 3);
  EXPECT_DOUBLE_EQ(r.input_throughput, 10);
  EXPECT_DOUBLE_EQ(r.total_throughput, 13);
  EXPECT_DOUBLE_EQ(r.ttft.mean, 200);
  EXPECT_DOUBLE_EQ(r.tpot.mean, 100);  // a request of one token has none
  EXPECT_NEAR(r.itl.p99, 100, 1e-4);
  EXPECT_DOUBLE_EQ(r.e2el.max, 500);
  EXPECT_FALSE(r.goodput);
}

TEST(BenchReport, APieceOfSeveralTokensIsSeveralGaps) {
  LoadResult load;
  load.duration = 1;
  load.requests = {good(0.1, 0.5, 9, {0.2F, 0.2F})};  // 8 tokens in 2 pieces after the first token
  const auto r = make_report(load);
  EXPECT_NEAR(r.itl.mean, 50, 1e-4);
  EXPECT_NEAR(r.tpot.mean, 50, 1e-9);
}

TEST(BenchReport, FailuresAreCountedByKindAndKeepOutOfTheLatencies) {
  LoadResult load;
  load.duration = 1;
  load.requests = {good(0.1, 0.2, 2, {0.1F}), {}, {}, {}};
  for (int i = 1; i < 4; ++i)
    load.requests[static_cast<std::size_t>(i)].error_kind = i < 3 ? "HTTP 429" : "timeout";
  load.requests[1].error = "queue full";
  const auto r = make_report(load);
  EXPECT_EQ(r.failed, 3);
  EXPECT_EQ(r.errors.at("HTTP 429"), 2);
  EXPECT_EQ(r.error_examples.at("HTTP 429"), "queue full");
  EXPECT_DOUBLE_EQ(r.ttft.mean, 100);
  EXPECT_THAT(report_text(r), HasSubstr("HTTP 429:"));
}

TEST(BenchReport, GoodputCountsWhatKeepsEveryLimit) {
  LoadResult load;
  load.duration = 2;
  load.requests = {good(0.1, 0.2, 2, {0.1F}), good(0.5, 0.6, 2, {0.1F}), good(0.1, 0.9, 2, {0.8F})};
  EXPECT_DOUBLE_EQ(*make_report(load, parse_goodput({"ttft:200"}).value()).goodput, 1);
  EXPECT_DOUBLE_EQ(*make_report(load, parse_goodput({"ttft:200", "tpot:150"}).value()).goodput, 0.5);
  EXPECT_DOUBLE_EQ(*make_report(load, parse_goodput({"e2e:1"}).value()).goodput, 0);
}

TEST(BenchReport, LimitsThatAreNoneAreRefused) {
  for (const char* bad :
       {"", "ttft", "ttft:", "ttft:x", "ttft:-1", "ttft:0", "ttft:nan", "foo:1", ":1", "ttft:1x"}) {
    EXPECT_FALSE(parse_goodput({bad})) << bad;
  }
}

TEST(BenchReport, JsonHasEveryFigureAndNoNaNWhenNothingEnded) {
  const auto json = report_json(make_report({}));
  for (const char* metric : {"ttft", "tpot", "itl", "e2el"}) {
    for (const char* figure : {"mean", "median", "p90", "p95", "p99"}) {
      const auto name = fmt::format("{}_{}_ms", figure, metric);
      ASSERT_TRUE(json.contains(name)) << name;
      EXPECT_EQ(json[name], 0.0) << name;
    }
  }
  for (const char* name : {"completed", "failed", "duration", "request_throughput", "output_throughput"}) {
    EXPECT_TRUE(json.contains(name)) << name;
  }
  EXPECT_EQ(json.dump().find("null"), std::string::npos);
}

}  // namespace
}  // namespace trireme::cli
