#include "text/tokenizer.h"

#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "base/rng.h"
#include "text/byte_level.h"
#include "text/pre_tokenizer.h"
#include "text/test_files.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Bytes a..c, a few merges, one special and one ordinary added token.
Json tiny() {
  return Json::parse(
      R"({"added_tokens": [{"id": 20, "content": "<s>", "special": true}, {"id": 21, "content": "<think>", "special": false}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "<": 4, "s": 5, ">": 6, "ab": 7, "abc": 8, "Ġa": 9, "t": 10, "<s": 11},
    "merges": ["a b", "ab c", ["Ġ", "a"], "< s"]}})");
}

std::unique_ptr<Tokenizer> made(const Json& json, std::string_view config = {}) {
  auto tokenizer = Tokenizer::from_json(json.dump(), config);
  if (!tokenizer) ADD_FAILURE() << tokenizer.error().message;
  return tokenizer ? std::move(*tokenizer) : nullptr;
}

std::string refusal(const Json& json) {
  const auto tokenizer = Tokenizer::from_json(json.dump());
  return tokenizer ? "accepted" : tokenizer.error().message;
}

TEST(Tokenizer, MergesByRankAndSplitsWordsFirst) {
  const auto t = made(tiny());
  EXPECT_THAT(*t->encode("abc abc a"), ElementsAre(8, 3, 8, 9));
  EXPECT_THAT(*t->encode(""), ElementsAre());
  EXPECT_EQ(t->decode(*t->encode("abc ab<s>")), "abc ab<s>");
  EXPECT_EQ(t->vocab_size(), 22);
  EXPECT_EQ(t->id_of("<think>"), 21);
  EXPECT_EQ(t->id_of("nothing"), -1);
  EXPECT_EQ(t->token_bytes(9), " a");
  EXPECT_EQ(t->token_text(9),
            "\xC4\xA0"
            "a");
  EXPECT_EQ(t->token_bytes(15), "");
  EXPECT_EQ(t->token_bytes(-1), "");
  EXPECT_EQ(t->token_bytes(99), "");
}

TEST(Tokenizer, UserTextNeverBecomesAnAddedTokenSpecialOrNot) {
  const auto t = made(tiny());
  EXPECT_THAT(*t->encode("a<s>b", {.parse_special = true}), ElementsAre(0, 20, 1));
  EXPECT_THAT(*t->encode("a<s>b"), ElementsAre(0, 4, 5, 6, 1));
  EXPECT_THAT(*t->encode("<s>", {.parse_special = false}), testing::Not(testing::Contains(20)));
}

TEST(Tokenizer, PlainTextNeverMergesIntoAnAddedToken) {
  Json json = tiny();
  json["model"]["vocab"]["<s>"] = 20;
  json["model"]["merges"].push_back("<s >");
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  for (const bool whole_words : {false, true}) {
    json["model"]["ignore_merges"] = whole_words;
    EXPECT_THAT(*made(json)->encode("<s>"), ElementsAre(11, 6));
  }
}

TEST(Tokenizer, AddedTokensOfWhiteSpaceAreOrdinaryText) {
  Json json = tiny();
  json["added_tokens"].push_back({{"id", 22}, {"content", "  "}, {"special", false}});
  EXPECT_THAT(*made(json)->encode("a  b"), ElementsAre(0, 22, 1));
}

TEST(Tokenizer, TrustFollowsSegmentsAndWordsSpanThem) {
  const auto t = made(tiny());
  const std::vector<TextSegment> split_word = {{"a", true}, {"bc", false}};
  EXPECT_THAT(*t->encode_segments(split_word, false), ElementsAre(8));
  const std::vector<TextSegment> literal = {{"<", true}, {"s>", true}};
  EXPECT_THAT(*t->encode_segments(literal, false), ElementsAre(20));
  const std::vector<TextSegment> forged = {{"<", true}, {"s", false}, {">", true}};
  EXPECT_THAT(*t->encode_segments(forged, false), ElementsAre(4, 5, 6));
  const std::vector<TextSegment> mixed = {{"<s>", false}, {"<s>", true}, {"<s>", false}};
  EXPECT_THAT(*t->encode_segments(mixed, false), ElementsAre(4, 5, 6, 20, 4, 5, 6));
}

TEST(Tokenizer, AddedTokenFlagsTakeWhiteSpaceAlongOrAskForAWordOfItsOwn) {
  Json json = tiny();
  json["added_tokens"] =
      Json::parse(R"([{"id": 20, "content": "<s>", "special": true, "lstrip": true, "rstrip": true},
                                         {"id": 21, "content": "abcb", "special": false, "single_word": true}])");
  const auto t = made(json);
  EXPECT_THAT(*t->encode("a  <s> \n b", {.parse_special = true}), ElementsAre(0, 20, 1));
  EXPECT_THAT(*t->encode("abcb", {.parse_special = true}), ElementsAre(21));
  EXPECT_THAT(*t->encode("abcba", {.parse_special = true}), ElementsAre(8, 1, 0));
}

TEST(Tokenizer, WholeWordsComeFirstWithIgnoreMerges) {
  Json json = tiny();
  json["model"]["vocab"]["cab"] = 12;
  EXPECT_THAT(*made(json)->encode("cab"), ElementsAre(2, 7));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(*made(json)->encode("cab"), ElementsAre(12));
}

TEST(Tokenizer, SpecialTokensAroundATextComeFromTheTemplateOrTheConfig) {
  Json json = tiny();
  json["post_processor"] = Json::parse(
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}},
    {"SpecialToken": {"id": "x"}}], "special_tokens": {"<s>": {"ids": [20]}, "x": {"ids": [21]}}})");
  EXPECT_THAT(*made(json)->encode("a", {.add_special_tokens = true}), ElementsAre(20, 0, 21));
  EXPECT_THAT(*made(json, R"({"bos_token": "<s>", "add_bos_token": false})")
                   ->encode("a", {.add_special_tokens = true}),
              ElementsAre(0, 21));
  json.erase("post_processor");
  const auto t =
      made(json, R"({"bos_token": {"content": "<s>"}, "eos_token": "<think>", "add_bos_token": true})");
  EXPECT_THAT(*t->encode("a", {.add_special_tokens = true}), ElementsAre(20, 0));
  EXPECT_EQ(t->bos(), 20);
  EXPECT_THAT(t->eos(), ElementsAre(21));
  EXPECT_EQ(t->eos_text(), "<think>");
}

TEST(Tokenizer, TextThatIsNotUtf8IsRefused) {
  for (const std::string bad : {"\xff", "a\xC3", "\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80"}) {
    const auto got = demo_tokenizer().encode(bad);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, ErrorCode::kInvalidArgument);
  }
}

TEST(Tokenizer, ALongWordWithoutSpacesIsNotQuadratic) {
  std::string word;
  Rng rng(1);
  for (int i = 0; i < 1'000'000; ++i) word.push_back(static_cast<char>('a' + rng.below(26)));
  const auto start = std::chrono::steady_clock::now();
  const auto ids = demo_tokenizer().encode(word);
  ASSERT_TRUE(ids);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_EQ(demo_tokenizer().decode(*ids), word);
}

TEST(Tokenizer, LongWordsMergeAsShortOnesDo) {
  // The same pairs, once through the linear scan, once through the heap, must give the same ids.
  const Tokenizer& t = demo_tokenizer();
  const auto once = *t.encode("abcdefghij");
  std::string many;
  std::vector<TokenId> expected;
  for (int i = 0; i < 12; ++i) {
    many += "abcdefghij1";
    expected.insert(expected.end(), once.begin(), once.end());
    expected.push_back((*t.encode("1"))[0]);
  }
  EXPECT_EQ(*t.encode(many), expected);
}

TEST(Tokenizer, ThreadsShareOneAndAgree) {
  const Tokenizer& t = demo_tokenizer();
  const std::string text =
      "The quick brown fox jumps over the lazy dog, 123 times; internationalization and "
      "pneumonoultramicroscopic.";
  const auto expected = *t.encode(text);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 200; ++n) wrong += *t.encode(text) != expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, LoadsTheStopIdsOfTheDemoModel) {
  EXPECT_EQ(demo_tokenizer().bos(), 0);
  EXPECT_THAT(demo_tokenizer().eos(), ElementsAre(1));
  EXPECT_EQ(demo_tokenizer().eos_text(), "<|eos|>");
  const auto missing = Tokenizer::load("/nonexistent");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
}

TEST(TokenizerJsonRefusals, NameWhatIsWrong) {
  const auto with = [](auto change) {
    Json json = tiny();
    change(json);
    return refusal(json);
  };
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"].push_back("a zz"); }), HasSubstr("'zz'"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"].push_back("c c"); }),
              HasSubstr("makes the token 'cc'"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"].push_back("abc"); }), HasSubstr("one space"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"].push_back("a b c"); }), HasSubstr("one space"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"].push_back(Json::array({"", "a"})); }), HasSubstr("''"));
  EXPECT_THAT(with([](Json& j) { j["model"]["merges"] = 5; }), HasSubstr("merges"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["x"] = 0; }), HasSubstr("two tokens"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["x"] = -1; }), HasSubstr("-1"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["x"] = 1u << 30; }), HasSubstr("1073741824"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["x"] = "1"; }), HasSubstr("whole number"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"]["x"] = 1.5; }), HasSubstr("whole number"));
  EXPECT_THAT(with([](Json& j) { j["model"]["vocab"] = Json::array(); }), HasSubstr("vocab"));
  EXPECT_THAT(with([](Json& j) { j["model"]["type"] = "WordPiece"; }), HasSubstr("WordPiece"));
  EXPECT_THAT(with([](Json& j) { j["model"]["unk_token"] = "zz"; }), HasSubstr("zz"));
  EXPECT_THAT(with([](Json& j) { j["model"]["dropout"] = 0.1; }), HasSubstr("dropout"));
  EXPECT_THAT(with([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }),
              HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(with([](Json& j) { j["added_tokens"][0]["id"] = 0; }), HasSubstr("two tokens"));
  EXPECT_THAT(with([](Json& j) { j["added_tokens"][0]["content"] = "a"; }), HasSubstr("two ids"));
  EXPECT_THAT(with([](Json& j) { j["added_tokens"][0]["content"] = ""; }), HasSubstr("0 bytes"));
  EXPECT_THAT(with([](Json& j) { j["added_tokens"] = "x"; }), HasSubstr("added_tokens"));
  EXPECT_THAT(with([](Json& j) { j["pre_tokenizer"] = {{"type", "Bert"}}; }), HasSubstr("Bert"));
  EXPECT_THAT(with([](Json& j) {
                j["normalizer"] = {{"type", "BertNormalizer"}};
              }),
              HasSubstr("BertNormalizer"));
  EXPECT_THAT(with([](Json& j) { j["decoder"] = {{"type", "CTC"}}; }), HasSubstr("CTC"));
  EXPECT_THAT(with([](Json& j) {
                j["post_processor"] = {{"type", "BertProcessing"}};
              }),
              HasSubstr("BertProcessing"));
  EXPECT_THAT(with([](Json& j) {
                j["pre_tokenizer"] =
                    Json::parse(R"({"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"})");
              }),
              HasSubstr("compile"));
  EXPECT_THAT(with([](Json& j) {
                j["pre_tokenizer"] =
                    Json::parse(R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"Odd"})");
              }),
              HasSubstr("Odd"));
  EXPECT_THAT(with([](Json& j) { j.erase("model"); }), HasSubstr("model"));
  EXPECT_FALSE(Tokenizer::from_json("[]"));
  EXPECT_FALSE(Tokenizer::from_json("{"));
  EXPECT_FALSE(Tokenizer::from_json(tiny().dump(), R"({"eos_token": "nowhere"})"));
}

TEST(TokenizerJsonFuzz, MutatedFilesLoadOrFailButNeverCrash) {
  const std::string good = tiny().dump();
  Rng rng(11);
  for (int i = 0; i < 4000; ++i) {
    std::string text = good;
    for (u64 n = 1 + rng.below(5); n > 0; --n) {
      const std::size_t at = rng.below(text.size());
      switch (rng.below(3)) {
        case 0:
          text[at] = static_cast<char>(rng.below(256));
          break;
        case 1:
          text.erase(at, 1 + rng.below(4));
          break;
        default:
          text.insert(at, text.substr(rng.below(text.size()), rng.below(12)));
      }
    }
    const auto tokenizer = Tokenizer::from_json(text);
    if (tokenizer)
      (void)(*tokenizer)->encode("abc <s> ab c<think>", {.add_special_tokens = true, .parse_special = true});
  }
}

TEST(Regex, APatternThatBacktracksWithoutEndIsAnErrorNotAHang) {
  Json json = tiny();
  json["pre_tokenizer"] = Json::parse(
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(a+)+[bc]"},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
  const auto t = made(json);
  const auto got = t->encode(std::string(3000, 'a'));
  ASSERT_FALSE(got);
  EXPECT_THAT(got.error().message, HasSubstr("gave up"));
}

std::vector<std::string> pieces_of(const char* step, const std::string& text) {
  const auto tokenizer = PreTokenizer::parse(Json::parse(step));
  EXPECT_TRUE(tokenizer) << tokenizer.error().message;
  Pieces pieces;
  EXPECT_TRUE(tokenizer->split(text, true, pieces));
  return {pieces.words.begin(), pieces.words.end()};
}

TEST(PreTokenizer, SplitBehaviorsCutAsTheReferenceDoes) {
  const auto cut = [](const std::string& behavior, bool invert = false) {
    return pieces_of((R"({"type":"Split","pattern":{"String":"-"},"behavior":")" + behavior +
                      R"(","invert":)" + (invert ? "true" : "false") + "}")
                         .c_str(),
                     "the-final--countdown");
  };
  EXPECT_THAT(cut("Removed"), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(cut("Isolated"), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(cut("MergedWithPrevious"), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(cut("MergedWithNext"), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(cut("Contiguous"), ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(cut("Removed", true), ElementsAre("-", "-", "-"));
}

TEST(PreTokenizer, DigitsAndMetaspaceAndByteLevelCutAsTheReferenceDoes) {
  EXPECT_THAT(pieces_of(R"({"type":"Digits","individual_digits":true})", "ab 12c"),
              ElementsAre("ab ", "1", "2", "c"));
  EXPECT_THAT(pieces_of(R"({"type":"Digits","individual_digits":false})", "ab 12c"),
              ElementsAre("ab ", "12", "c"));
  EXPECT_THAT(pieces_of(R"({"type":"Metaspace","replacement":"_","prepend_scheme":"always","split":true})",
                        "Hey  you"),
              ElementsAre("_Hey", "_", "_you"));
  EXPECT_THAT(pieces_of(R"({"type":"Metaspace","replacement":"_","prepend_scheme":"never","split":false})",
                        "Hey you"),
              ElementsAre("Hey_you"));
  EXPECT_THAT(pieces_of(R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true})", "Hi you"),
              ElementsAre(" Hi", " you"));
}

TEST(Tokenizer, ALlama2StyleFileWithByteFallbackGoesThereAndBack) {
  Json vocab = {{"<unk>", 0}, {"<s>", 1},  {"\xE2\x96\x81", 259},  {"H", 260},
                {"i", 261},   {"Hi", 262}, {"\xE2\x96\x81Hi", 263}};
  for (int b = 0; b < 256; ++b) vocab[fmt::format("<0x{:02X}>", b)] = 3 + b;
  Json json =
      Json::parse(R"({"added_tokens": [{"id": 1, "content": "<s>", "special": true, "normalized": false}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
    "pre_tokenizer": null,
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "merges": ["H i"]}})");
  std::string text = json.dump();
  for (std::size_t at = 0; (at = text.find("\"_\"", at)) != std::string::npos; at += 3)
    text.replace(at, 3, "\"\xE2\x96\x81\"");
  json = Json::parse(text);
  json["model"]["vocab"] = vocab;
  json["model"]["merges"].push_back("\xE2\x96\x81 Hi");
  const auto t = made(json);
  EXPECT_THAT(*t->encode("Hi Hi\n"), ElementsAre(263, 263, 13));
  EXPECT_THAT(*t->encode("<s>Hi", {.parse_special = true}), ElementsAre(1, 263));
  EXPECT_EQ(t->decode(*t->encode("Hi é漢 Hi")), "Hi é漢 Hi");
}

}  // namespace
}  // namespace trireme::text
