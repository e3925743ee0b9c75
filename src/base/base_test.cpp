#include <gtest/gtest.h>

#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"

namespace trireme {
namespace {

TEST(Json, DeepNestingIsRefusedBeforeItIsParsed) {
  const std::string deep(100'000, '[');
  const auto r = parse_json(deep, "request body");
  ASSERT_FALSE(r);
  EXPECT_NE(r.error().message.find("nested deeper"), std::string::npos);
}

TEST(Json, BracketsInsideStringsAreNotDepth) {
  const auto r = parse_json("{\"a\":\"" + std::string(1000, '[') + "\\\"[\"}", "body");
  ASSERT_TRUE(r) << r.error().message;
}

TEST(Json, DuplicateKeysAreRefusedByName) {
  const auto r = parse_json(R"({"model":"a","x":{"model":1},"model":"b"})", "body");
  ASSERT_FALSE(r);
  EXPECT_NE(r.error().message.find("\"model\""), std::string::npos);
  EXPECT_TRUE(parse_json(R"({"a":{"x":1},"b":{"x":1}})", "body"));
}

TEST(Json, InvalidUtf8IsRefusedInAndReplacedOut) {
  EXPECT_FALSE(parse_json("\"\xff\xfe\"", "body"));
  EXPECT_EQ(to_text(Json("a\xff")), "\"a\xEF\xBF\xBD\"");
}

TEST(Log, ForeignTextStaysOnOneLine) {
  EXPECT_EQ(one_line("a\r\nb\x1b[31m"), "a\\x0d\\x0ab\\x1b[31m");
  EXPECT_EQ(one_line(std::string(300, 'x'), 4), "xxxx...");
}

TEST(Rng, IsTheSameEverywhereAndRoughlyUniform) {
  Rng a(1), b(1);
  double sum = 0;
  for (int i = 0; i < 10'000; ++i) {
    const double x = a.uniform();
    EXPECT_EQ(x, b.uniform());
    sum += x;
  }
  EXPECT_NEAR(sum / 10'000, 0.5, 0.02);
  EXPECT_NE(keyed_uniform(1, 2), keyed_uniform(2, 1));
}

}  // namespace
}  // namespace trireme
