#include "obs/metrics.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "base/json.h"

namespace trireme::obs {
namespace {

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(Metrics, CountersAreShownUnderEveryNameTheyHave) {
  Registry registry(Registry::Labels{{"model_name", "demo"}});
  registry.counter(Metric::kPromptTokens).add(7);
  const auto text = registry.exposition();
  EXPECT_TRUE(has_line(text, "trireme:prompt_tokens_total{model_name=\"demo\"} 7"));
  EXPECT_TRUE(has_line(text, "vllm:prompt_tokens_total{model_name=\"demo\"} 7"));
  EXPECT_TRUE(has_line(text, "sglang:prompt_tokens_total{model_name=\"demo\"} 7"));
  EXPECT_TRUE(has_line(text, "# TYPE vllm:prompt_tokens_total counter"));
}

TEST(Metrics, LabelValuesCannotBreakOutOfTheirQuotes) {
  Registry registry(Registry::Labels{{"model_name", "a\"b\\c\nd"}});
  registry.counter(Metric::kRequestsFinished, {"stop\"} 1\nevil 1"}).add();
  const auto text = registry.exposition();
  EXPECT_TRUE(
      has_line(text,
               "trireme:request_success_total{model_name=\"a\\\"b\\\\c\\nd\",finished_reason=\"stop\\\"} "
               "1\\nevil 1\"} 1"));
  EXPECT_EQ(text.find("\nevil"), std::string::npos);
}

TEST(Metrics, HistogramBucketsAreCumulativeAndEndInInf) {
  Registry registry({});
  auto& h = registry.histogram(Metric::kRequestChoices);
  for (const double v : {1.0, 2.0, 2.5, 1000.0}) h.observe(v);
  const auto text = registry.exposition();
  EXPECT_TRUE(has_line(text, "trireme:request_params_n_bucket{le=\"1\"} 1"));
  EXPECT_TRUE(has_line(text, "trireme:request_params_n_bucket{le=\"2\"} 2"));
  EXPECT_TRUE(has_line(text, "trireme:request_params_n_bucket{le=\"5\"} 3"));
  EXPECT_TRUE(has_line(text, "trireme:request_params_n_bucket{le=\"128\"} 3"));
  EXPECT_TRUE(has_line(text, "trireme:request_params_n_bucket{le=\"+Inf\"} 4"));
  EXPECT_TRUE(has_line(text, "trireme:request_params_n_count 4"));
  EXPECT_TRUE(has_line(text, "trireme:request_params_n_sum 1005.5"));
}

TEST(Metrics, NothingIsLostWhenManyThreadsWrite) {
  Registry registry({});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) {
        registry.counter(Metric::kRequestsFinished, {"stop"}).add();
        registry.histogram(Metric::kRequestChoices).observe(1);
        registry.gauge(Metric::kHttpConnections).add(i % 2 ? -1 : 1);
        if (i % 1000 == 0) (void)registry.exposition();
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(registry.counter(Metric::kRequestsFinished, {"stop"}).value(), 40000u);
  EXPECT_EQ(registry.histogram(Metric::kRequestChoices).snapshot().counts[0], 40000u);
  EXPECT_EQ(registry.histogram(Metric::kRequestChoices).snapshot().sum, 40000.0);
  EXPECT_EQ(registry.gauge(Metric::kHttpConnections).value(), 0.0);
}

TEST(Metrics, ACounterKeptElsewhereNeverGoesDown) {
  Counter counter;
  counter.raise_to(5);
  counter.raise_to(3);
  EXPECT_EQ(counter.value(), 5u);
}

TEST(MetricTable, NamesAreUniqueAndKeepThePrometheusRules) {
  std::set<std::string_view> names;
  for (const auto& row : metric_table()) {
    for (const auto name : {row.name, row.vllm, row.sglang}) {
      if (name.empty()) continue;
      EXPECT_TRUE(names.insert(name).second) << name;
      EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_:"), std::string_view::npos)
          << name;
      EXPECT_EQ(row.type == MetricType::kCounter, name.ends_with("_total")) << name;
    }
    EXPECT_EQ(row.type == MetricType::kHistogram, !row.buckets.empty()) << row.name;
    EXPECT_TRUE(std::is_sorted(row.buckets.begin(), row.buckets.end())) << row.name;
    EXPECT_FALSE(row.help.empty()) << row.name;
  }
}

TEST(MetricTable, ThePageInDocsIsMadeFromTheTable) {
  const auto page = read_text_file(TRIREME_SOURCE_DIR "/docs/metrics.md");
  ASSERT_TRUE(page) << page.error().message;
  EXPECT_EQ(*page, metric_table_markdown()) << "write the right-hand side to docs/metrics.md";
}

}  // namespace
}  // namespace trireme::obs
