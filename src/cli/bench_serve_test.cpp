#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "cli/bench_report.h"
#include "cli/bench_serve_prompts.h"
#include "cli/bench_serve_sharegpt.h"
#include "cli/http_test_server.h"

namespace trireme::cli {
namespace {

using testing::HasSubstr;

constexpr std::string_view kUsage =
    R"(data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":3}}})"
    "\n\n";

bool stream_answer(TestPeer& peer, int pieces, std::string_view usage = kUsage) {
  if (!peer.write(kStreamHead)) return false;
  peer.chunk("data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n");
  for (int i = 0; i < pieces; ++i) {
    if (!peer.chunk("data: {\"choices\":[{\"index\":0,\"text\":\"x\"}],\"usage\":null}\n\n")) return false;
  }
  if (!usage.empty()) peer.chunk(usage);
  peer.chunk("data: [DONE]\n\n");
  return peer.chunk("");
}

LoadOptions options_for(const TestServer& server, int concurrency) {
  LoadOptions o;
  o.url = parse_url(server.url()).value();
  o.addresses = resolve(o.url).value();
  o.path = "/v1/completions";
  o.timeouts = {.idle = std::chrono::seconds(20), .total = std::chrono::seconds(20)};
  o.concurrency = concurrency;
  return o;
}

TEST(Load, ManyStreamsAtOnceAllEndAndReuseTheirConnections) {
  std::atomic<int> running{0}, most{0};
  TestServer server([&](const std::string&, TestPeer& peer) {
    const int now = ++running;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const bool ok = stream_answer(peer, 5);
    --running;
    return ok;
  });
  const std::vector<std::string> bodies(300, "{}");
  i64 last = 0;
  const auto result =
      run_load(options_for(server, 50), bodies, [&](i64 done, i64) { EXPECT_EQ(done, ++last); });
  const auto report = make_report(result);
  EXPECT_EQ(report.completed, 300);
  EXPECT_EQ(report.failed, 0);
  EXPECT_EQ(last, 300);
  EXPECT_EQ(report.input_tokens, 300 * 7);
  EXPECT_EQ(report.output_tokens, 300 * 5);
  EXPECT_EQ(report.cached_tokens, 300 * 3);
  EXPECT_TRUE(report.counted);
  EXPECT_EQ(result.peak_concurrency, 50);
  EXPECT_LE(most, 50);
  EXPECT_LE(server.connections(), 50);
  for (const auto& r : result.requests) EXPECT_EQ(r.gaps.size(), 4u);
}

TEST(Load, WithoutUsageThePiecesAreCounted) {
  TestServer server([](const std::string&, TestPeer& peer) { return stream_answer(peer, 4, ""); });
  const std::vector<std::string> bodies(1, "{}");
  const auto report = make_report(run_load(options_for(server, 1), bodies, {}));
  EXPECT_EQ(report.output_tokens, 4);
  EXPECT_FALSE(report.counted);
}

TEST(Load, EveryWayToFailIsCountedAndNothingHangs) {
  std::atomic<int> turn{0};
  TestServer server([&](const std::string&, TestPeer& peer) {
    switch (turn++ % 7) {
      case 0:
        return stream_answer(peer, 5);
      case 1:
        return peer.write(plain_answer(429, R"({"error":{"message":"queue full"}})"));
      case 2:
        peer.write(kStreamHead);
        peer.chunk("data: {\"error\":{\"message\":\"engine died\"}}\n\n");
        peer.chunk("data: [DONE]\n\n");
        return peer.chunk("");
      case 3:
        peer.write(kStreamHead);
        peer.chunk("data: {\"choices\":[{\"text\":\"x\"}]}\n\n");
        return false;
      case 4:
        peer.write(kStreamHead);
        peer.chunk("data: {\"choices\":[{\"text\":\"x\"}]}\n\n");
        return peer.chunk("");
      case 5:
        peer.wait_for_end();
        return false;
      default:
        peer.write(kStreamHead);
        peer.chunk("data: [DONE]\n\n");
        return peer.chunk("");
    }
  });
  auto options = options_for(server, 1);
  options.timeouts.total = std::chrono::milliseconds(200);
  const std::vector<std::string> bodies(14, "{}");
  const auto report = make_report(run_load(options, bodies, {}));
  EXPECT_EQ(report.completed, 2);
  const std::map<std::string, i64> expected{
      {"HTTP 429", 2}, {"error in stream", 2}, {"disconnected", 4}, {"timeout", 2}, {"no output", 2}};
  EXPECT_EQ(report.errors, expected);
  EXPECT_THAT(report.error_examples.at("HTTP 429"), HasSubstr("queue full"));
  EXPECT_THAT(report.error_examples.at("error in stream"), HasSubstr("engine died"));
}

TEST(Load, AServerThatIsNotThereFailsEveryRequest) {
  LoadOptions options;
  {
    TestServer server([](const std::string&, TestPeer&) { return false; });
    options = options_for(server, 4);
  }
  const std::vector<std::string> bodies(2000, "{}");
  const auto report = make_report(run_load(options, bodies, {}));
  EXPECT_EQ(report.errors.at("connection"), 2000);
}

TEST(Load, AnOpenLoopDoesNotWaitForAnswers) {
  TestServer server([](const std::string&, TestPeer& peer) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return stream_answer(peer, 5);
  });
  auto options = options_for(server, 0);
  options.request_rate = 200;
  const std::vector<std::string> bodies(40, "{}");
  const auto result = run_load(options, bodies, {});
  EXPECT_EQ(make_report(result).completed, 40);
  EXPECT_GE(result.peak_concurrency, 20);
  for (std::size_t i = 1; i < result.requests.size(); ++i) {
    EXPECT_GE(result.requests[i].due, result.requests[i - 1].due);
    EXPECT_GE(result.requests[i].sent, result.requests[i].due);
  }
}

TEST(Load, StopsWhenToldAndKeepsWhatHadEnded) {
  std::atomic<int> turn{0};
  std::atomic<bool> stop{false};
  TestServer server([&](const std::string&, TestPeer& peer) {
    if (turn++ < 3) return stream_answer(peer, 5);
    stop = true;
    peer.wait_for_end();
    return false;
  });
  const std::vector<std::string> bodies(100, "{}");
  const auto result = run_load(options_for(server, 1), bodies, {}, &stop);
  EXPECT_TRUE(result.stopped);
  const auto report = make_report(result);
  EXPECT_EQ(report.completed, 3);
  EXPECT_EQ(report.failed, 0);
}

TEST(Arrivals, KeepTheirRateAtEveryBurstiness) {
  for (const double burstiness : {0.3, 1.0, 4.0}) {
    Arrivals arrivals(8, burstiness, 3);
    constexpr int kCount = 40000;
    double sum = 0, squares = 0;
    for (int i = 0; i < kCount; ++i) {
      const double gap = arrivals.next_gap();
      ASSERT_GE(gap, 0);
      sum += gap;
      squares += gap * gap;
    }
    const double mean = sum / kCount;
    EXPECT_NEAR(mean, 1.0 / 8, 0.04 / 8) << burstiness;
    // A gamma distribution's variance is the square of its mean over its shape.
    EXPECT_NEAR((squares / kCount - mean * mean) / (mean * mean), 1 / burstiness, 0.1 / burstiness)
        << burstiness;
  }
}

TEST(Prompts, RandomIdsHaveTheLengthsAndThePrefix) {
  PromptOptions o;
  o.count = 200;
  o.input_len = 100;
  o.output_len = 20;
  o.range_ratio = 0.5;
  o.shared_prefix_len = 30;
  o.vocab_size = 1000;
  const auto prompts = make_prompts(o, false).value();
  ASSERT_EQ(prompts.size(), 200u);
  std::set<std::size_t> lengths;
  for (const auto& p : prompts) {
    const auto ids = p.content.get<std::vector<int>>();
    lengths.insert(ids.size() - 30);
    EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + 30, prompts[0].content.begin()));
    for (const int id : ids) ASSERT_TRUE(id >= 250 && id < 750) << id;
    EXPECT_TRUE(p.max_tokens >= 10 && p.max_tokens <= 30) << p.max_tokens;
  }
  EXPECT_GE(*lengths.begin(), 50u);
  EXPECT_LE(*lengths.rbegin(), 150u);
  EXPECT_GE(lengths.size(), 30u);
  EXPECT_NE(prompts[0].content, prompts[1].content);
  EXPECT_EQ(make_prompts(o, false).value()[5].content, prompts[5].content);
  o.seed = 1;
  EXPECT_NE(make_prompts(o, false).value()[5].content, prompts[5].content);
}

TEST(Prompts, BodiesAskForAStreamWithUsage) {
  PromptOptions o;
  o.count = 1;
  o.input_len = 3;
  const auto chat = make_prompts(o, true).value();
  const auto body = Json::parse(request_body(chat[0], {.model = "m", .chat = true, .ignore_eos = true}));
  EXPECT_EQ(body["messages"][0]["role"], "user");
  EXPECT_EQ(body["stream_options"]["include_usage"], true);
  EXPECT_EQ(body["stream"], true);
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_EQ(body["max_tokens"], 128);
  const auto plain = Json::parse(request_body(make_prompts(o, false).value()[0], {.model = "m"}));
  EXPECT_EQ(plain["prompt"].size(), 3u);
  EXPECT_FALSE(plain.contains("ignore_eos"));
}

class PromptFile : public testing::Test {
 protected:
  ~PromptFile() override { std::filesystem::remove(path_); }
  void write(std::string_view text) { std::ofstream(path_) << text; }
  PromptOptions options(Dataset dataset, int count) const {
    PromptOptions o;
    o.dataset = dataset;
    o.path = path_;
    o.count = count;
    o.output_len = 0;
    return o;
  }
  std::string path_ =
      (std::filesystem::temp_directory_path() / fmt::format("trireme-prompts-{}", getpid())).string();
};

TEST_F(PromptFile, LinesArePromptsAndStartAgainAtTheEnd) {
  write("{\"prompt\":\"a\"}\n\n{\"prompt\":[1,2],\"max_tokens\":9}\n");
  const auto prompts = make_prompts(options(Dataset::kPrompts, 3), false).value();
  ASSERT_EQ(prompts.size(), 3u);
  EXPECT_EQ(prompts[0].content, "a");
  EXPECT_EQ(prompts[0].max_tokens, 128);
  EXPECT_EQ(prompts[1].max_tokens, 9);
  EXPECT_EQ(prompts[2].content, "a");
}

TEST_F(PromptFile, ALineThatIsWrongIsNamed) {
  for (const char* bad :
       {"{}", "[]", "{\"prompt\":1}", "{\"prompt\":\"a\",\"max_tokens\":0}", "{\"messages\":[]}", "x"}) {
    write(fmt::format("{{\"prompt\":\"a\"}}\n{}\n", bad));
    const auto prompts = make_prompts(options(Dataset::kPrompts, 5), false);
    ASSERT_FALSE(prompts) << bad;
    EXPECT_THAT(prompts.error().message, HasSubstr(":2")) << bad;
  }
}

TEST_F(PromptFile, ShareGptGivesTheFirstTwoTurns) {
  const std::string question(40, 'q'), answer(80, 'a');
  Json file = Json::array();
  file.push_back({{"id", "x"},
                  {"conversations",
                   {{{"from", "human"}, {"value", question}},
                    {{"from", "gpt"}, {"value", answer}},
                    {{"from", "human"}, {"value", "third turn"}}}}});
  file.push_back({{"id", "one turn"}, {"conversations", {{{"from", "human"}, {"value", question}}}}});
  file.push_back(
      {{"id", "too short"},
       {"conversations", {{{"from", "human"}, {"value", "hi"}}, {{"from", "gpt"}, {"value", answer}}}}});
  write(file.dump());
  const auto prompts = make_prompts(options(Dataset::kShareGpt, 2), true).value();
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].content[0]["content"], question);
  EXPECT_EQ(prompts[0].max_tokens, 20);
  EXPECT_EQ(prompts[1].content, prompts[0].content);
}

TEST(ShareGpt, ASampleHasNoPairTwiceAndFollowsItsSeed) {
  Json file = Json::array();
  for (int i = 0; i < 500; ++i) {
    const auto text = fmt::format("{:0>40}", i);
    file.push_back({{"conversations", {{{"value", text}}, {{"value", text}}}}});
  }
  const auto sample = [&](u64 seed) {
    std::istringstream in(file.dump());
    std::set<std::string> out;
    const auto pairs = sharegpt_pairs(in, "file", 50, seed).value();
    for (const auto& pair : pairs) {
      EXPECT_EQ(pair.question, pair.answer);
      out.insert(pair.question);
    }
    return out;
  };
  EXPECT_EQ(sample(1).size(), 50u);
  EXPECT_EQ(sample(1), sample(1));
  EXPECT_NE(sample(1), sample(2));
}

TEST(ShareGpt, WhatIsNoneIsRefused) {
  for (const std::string& bad : {std::string("{"), std::string("[]"), std::string("{\"a\":1}"),
                                 std::string(100000, '['), std::string()}) {
    std::istringstream in(bad);
    EXPECT_FALSE(sharegpt_pairs(in, "file", 5, 0)) << bad.substr(0, 20);
  }
}

}  // namespace
}  // namespace trireme::cli
