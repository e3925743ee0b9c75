#include "text/stream_text.h"

#include <gmock/gmock.h>

#include "base/rng.h"
#include "text/test_files.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

TEST(Detokenizer, PiecesOfRandomIdsJoinToTheWholeDecodeAndAreEachUtf8) {
  const Tokenizer& t = demo_tokenizer();
  Rng rng(5);
  for (int i = 0; i < 2000; ++i) {
    const bool skip_special = rng.below(2) == 0;
    Detokenizer stream(t, skip_special);
    std::vector<TokenId> ids;
    std::string joined;
    for (u64 n = rng.below(40); n > 0; --n) {
      // Mostly single bytes, so that characters come in parts and broken; sometimes an id that does not
      // exist.
      const u64 kind = rng.below(8);
      ids.push_back(static_cast<TokenId>(kind == 0   ? rng.below(5000)
                                         : kind == 1 ? rng.below(7)
                                                     : 7 + rng.below(256)));
      const std::string piece = stream.push(ids.back());
      EXPECT_TRUE(valid_utf8(piece));
      joined += piece;
    }
    joined += stream.flush();
    ASSERT_EQ(joined, t.decode(ids, skip_special));
  }
}

TEST(Detokenizer, HoldsACharacterBackUntilItIsWhole) {
  const Tokenizer& t = demo_tokenizer();
  const auto ids = *t.encode("😀");
  ASSERT_GT(ids.size(), 1u);
  Detokenizer stream(t);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(stream.push(ids[i]), "");
  EXPECT_EQ(stream.push(ids.back()), "😀");
  stream.push(ids[0]);
  EXPECT_EQ(stream.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.flush(), "");
}

TEST(Utf8, IllFormedBytesBecomeOneReplacementForEachMaximalPart) {
  EXPECT_EQ(lossy_utf8("a\xF0\x9F\x98z"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(lossy_utf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(lossy_utf8("\xC0\xAF\xFF"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

std::string feed(StopMatcher& m, const std::vector<std::string>& parts) {
  std::string out;
  for (const auto& p : parts) out += m.push(p) + "|";
  return out + m.flush();
}

TEST(StopMatcher, FindsAStringAcrossPiecesAndHoldsBackItsStart) {
  StopMatcher m({.strings = {"STOP"}});
  EXPECT_EQ(feed(m, {"a S", "T", "OPx", "more"}), "a ||||");
  EXPECT_EQ(m.stopped_by(), "STOP");
}

TEST(StopMatcher, GivesHeldTextWhenItWasNoStop) {
  StopMatcher m({.strings = {"STOP", "</s>"}});
  EXPECT_EQ(feed(m, {"aST", "x<", "/", "s"}), "a|STx|||</s");
  EXPECT_FALSE(m.stopped_by());
}

TEST(StopMatcher, IncludesTheStringWhenAsked) {
  StopMatcher m({.strings = {"\n\n"}, .include_in_output = true});
  EXPECT_EQ(feed(m, {"a\n", "\nb"}), "a|\n\n|");
}

TEST(StopMatcher, TakesTheEarliestEndAndThenTheEarliestStart) {
  StopMatcher m({.strings = {"bc", "abc", "c"}});
  EXPECT_EQ(feed(m, {"xabcd"}), "x|");
  EXPECT_EQ(m.stopped_by(), "abc");
}

TEST(StopMatcher, OutputIsTheTextBeforeTheFirstStopHoweverItIsCut) {
  Rng rng(9);
  for (int i = 0; i < 5000; ++i) {
    StopOptions options;
    const auto word = [&rng](u64 most) {
      std::string w;
      for (u64 n = 1 + rng.below(most); n > 0; --n) w.push_back(static_cast<char>('a' + rng.below(2)));
      return w;
    };
    for (u64 n = 1 + rng.below(3); n > 0; --n) options.strings.push_back(word(5));
    const std::string text = word(30);
    std::size_t best_end = std::string::npos, best_start = 0;
    for (const auto& s : options.strings) {
      const std::size_t at = text.find(s);
      if (at == std::string::npos) continue;
      const std::size_t end = at + s.size();
      if (end < best_end || (end == best_end && at < best_start)) best_end = end, best_start = at;
    }
    StopMatcher m(options);
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = 1 + rng.below(4);
      out += m.push(std::string_view(text).substr(at, n));
      at += n;
    }
    out += m.flush();
    ASSERT_EQ(out, best_end == std::string::npos ? text : text.substr(0, best_start)) << text;
    ASSERT_EQ(m.stopped_by().has_value(), best_end != std::string::npos);
  }
}

TEST(StopOptions, RefusesWhatCannotBeAStopString) {
  EXPECT_TRUE(StopOptions({.strings = {"a"}}).validate());
  EXPECT_FALSE(StopOptions({.strings = {""}}).validate());
  EXPECT_FALSE(StopOptions({.strings = {"\xff"}}).validate());
  EXPECT_FALSE(StopOptions({.strings = {std::string(5000, 'x')}}).validate());
  EXPECT_FALSE(StopOptions({.strings = std::vector<std::string>(100, "x")}).validate());
}

TEST(StreamText, StopsInsideATokenAndSaysWhy) {
  const Tokenizer& t = demo_tokenizer();
  StreamText stream(t, {.strings = {"wor"}});
  std::string out;
  Piece last;
  const auto ids = *t.encode("hello world again");
  for (const TokenId id : ids) {
    last = stream.push(id);
    out += last.text;
  }
  EXPECT_EQ(out, "hello ");
  EXPECT_TRUE(last.stopped);
  EXPECT_EQ(last.stop_reason, "wor");
  EXPECT_EQ(stream.finish().text, "");
}

TEST(StreamText, FinishGivesWhatWasHeldBack) {
  const Tokenizer& t = demo_tokenizer();
  StreamText stream(t, {.strings = {"hello!"}});
  std::string out;
  const auto ids = *t.encode("hello");
  for (const TokenId id : ids) out += stream.push(id).text;
  EXPECT_EQ(out, "");
  const Piece end = stream.finish();
  EXPECT_EQ(end.text, "hello");
  EXPECT_FALSE(end.stopped);
}

}  // namespace
}  // namespace trireme::text
