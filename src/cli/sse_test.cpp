#include "cli/sse.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"

namespace trireme::cli {
namespace {

std::vector<std::string> events_of(const std::vector<std::string>& pieces) {
  SseParser parser;
  std::vector<std::string> out;
  for (const auto& piece : pieces) {
    EXPECT_TRUE(parser.push(piece, [&](std::string_view data) { out.emplace_back(data); }));
  }
  return out;
}

constexpr std::string_view kStream =
    "\xef\xbb\xbf"
    "data: one\n\n"
    ": a comment\n"
    "event: note\r\ndata:two\r\n\r\n"
    "data: three\rdata:  and more\r\r"
    "id: 7\n\n"
    "data\n\n"
    "data: \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\n\n"
    "dataset: no\n\n"
    "\r\n\n\r"
    "data: [DONE]\n\n"
    "data: cut";
const std::vector<std::string> kEvents{
    "one", "two", "three\n and more", "", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "[DONE]"};

TEST(Sse, EventsOfAWholeStream) { EXPECT_EQ(events_of({std::string(kStream)}), kEvents); }

TEST(Sse, AnySplitInTwoGivesTheSameEvents) {
  for (std::size_t i = 0; i <= kStream.size(); ++i) {
    EXPECT_EQ(events_of({std::string(kStream.substr(0, i)), std::string(kStream.substr(i))}), kEvents) << i;
  }
}

TEST(Sse, AnySplitInManyGivesTheSameEvents) {
  Rng rng(7);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < kStream.size();) {
      const std::size_t n = 1 + rng.below(trial % 2 == 0 ? 3 : 20);
      pieces.emplace_back(kStream.substr(at, n));
      at += n;
    }
    ASSERT_EQ(events_of(pieces), kEvents) << "trial " << trial;
  }
}

TEST(Sse, AnEndlessEventIsRefused) {
  const auto nothing = [](std::string_view) {};
  SseParser one_line(1000);
  Status status;
  for (int i = 0; i < 2000 && status; ++i) status = one_line.push("xxxxxxxxxx", nothing);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kDataLoss);

  SseParser many_lines(1000);
  status = {};
  int lines = 0;
  while (lines < 2000 && status) status = many_lines.push("data: x\n", nothing), ++lines;
  EXPECT_FALSE(status);
  EXPECT_LE(lines, 600);
}

TEST(ChunkSight, SeesTextOfEveryServersForm) {
  EXPECT_TRUE(look_at_chunk(R"({"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null})").text);
  EXPECT_TRUE(look_at_chunk(R"({"choices": [{"delta": {"role": "assistant", "content": " "}}]})").text);
  EXPECT_TRUE(look_at_chunk(R"({"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]})").text);
  EXPECT_TRUE(look_at_chunk(R"({"choices":[{"index":0,"text":"\n","logprobs":null}]})").text);
  EXPECT_TRUE(look_at_chunk(R"({"choices":[{"delta":{"content":"\""}}]})").text);
}

TEST(ChunkSight, SeesThatThereIsNone) {
  EXPECT_FALSE(look_at_chunk(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})").text);
  EXPECT_FALSE(look_at_chunk(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})").text);
  EXPECT_FALSE(look_at_chunk(R"({"choices":[{"text":"","finish_reason":"length"}]})").text);
  EXPECT_FALSE(look_at_chunk(R"({"choices":[],"usage":{"prompt_tokens":3}})").text);
  EXPECT_FALSE(look_at_chunk(R"({"id":"content","object":"text","choices":[]})").text);
  EXPECT_FALSE(look_at_chunk("").text);
}

TEST(ChunkSight, TextThatQuotesKeysIsNoKey) {
  const auto sight =
      look_at_chunk(R"({"choices":[{"delta":{"content":"\"usage\":{ \"error\":{ "}}],"usage":null})");
  EXPECT_TRUE(sight.text);
  EXPECT_FALSE(sight.usage);
  EXPECT_FALSE(sight.error);
}

TEST(ChunkSight, SeesUsageAndErrors) {
  EXPECT_TRUE(look_at_chunk(R"({"choices":[],"usage": {"prompt_tokens":3}})").usage);
  EXPECT_TRUE(look_at_chunk(R"({"error":{"message":"full"}})").error);
  EXPECT_TRUE(look_at_chunk(R"({"error":"full"})").error);
  EXPECT_FALSE(look_at_chunk(R"({"error":null,"choices":[]})").error);
}

}  // namespace
}  // namespace trireme::cli
