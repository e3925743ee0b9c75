#include "text/sentencepiece.h"

#include <gmock/gmock.h>

#include <bit>

#include "base/rng.h"
#include "text/protobuf.h"
#include "text/test_files.h"

namespace trireme::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string varint(u64 v) {
  std::string out;
  for (; v >= 0x80; v >>= 7) out.push_back(static_cast<char>(v | 0x80));
  out.push_back(static_cast<char>(v));
  return out;
}
std::string bytes_field(int number, const std::string& bytes) {
  return varint(static_cast<u64>(number) << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string number_field(int number, u64 v) { return varint(static_cast<u64>(number) << 3) + varint(v); }
std::string piece(const std::string& text, float score, int type = 1) {
  const u32 bits = std::bit_cast<u32>(score);
  std::string body = bytes_field(1, text) + varint(2 << 3 | 5);
  for (int i = 0; i < 4; ++i) body.push_back(static_cast<char>(bits >> (8 * i)));
  return bytes_field(1, body + number_field(3, static_cast<u64>(type)));
}

// <unk> <s> </s> and a few pieces over the space mark and a, b, c.
std::string tiny(u64 model_type, const std::string& more = {}) {
  return piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("\xE2\x96\x81", -1) +
         piece("a", -2) + piece("b", -3) + piece("ab", -4) +
         piece(
             "\xE2\x96\x81"
             "ab",
             -5) +
         bytes_field(2, number_field(3, model_type)) + bytes_field(3, number_field(4, 0)) + more;
}

std::unique_ptr<Tokenizer> made(const std::string& bytes) {
  auto t = Tokenizer::from_sentencepiece(bytes);
  if (!t) ADD_FAILURE() << t.error().message;
  return t ? std::move(*t) : nullptr;
}

TEST(SentencePiece, AHandMadeModelEncodesByBpeAndByUnigram) {
  for (const u64 type : {1, 2}) {
    const auto t = made(tiny(type));
    EXPECT_THAT(*t->encode("ab a"), ElementsAre(7, 3, 4)) << type;
    EXPECT_THAT(*t->encode("ab", {.add_special_tokens = true}), ElementsAre(1, 7));
    EXPECT_THAT(*t->encode("azzb"), ElementsAre(3, 4, 0, 5));
    EXPECT_EQ(t->decode(*t->encode("ab a")), "ab a");
    EXPECT_EQ(t->bos(), 1);
    EXPECT_THAT(t->eos(), ElementsAre(2));
  }
}

TEST(SentencePiece, ControlPiecesComeOnlyFromTrustedText) {
  const auto t = made(tiny(2));
  EXPECT_THAT(*t->encode("<s>ab</s>", {.parse_special = true}), ElementsAre(1, 7, 2));
  EXPECT_THAT(*t->encode("<s>"), testing::Not(testing::Contains(1)));
}

TEST(SentencePiece, EncodesAndDecodesAsTheReferenceDoes) {
  const Json fixtures = json_of(testdata("sentencepiece.json"));
  for (const auto& [name, cases] : fixtures.items()) {
    const auto bytes = read_text_file(testdata(name));
    ASSERT_TRUE(bytes);
    const auto t = made(*bytes);
    ASSERT_GE(cases.size(), 80u);
    for (const Json& c : cases) {
      const auto text = c["text"].get<std::string>();
      const auto ids = t->encode(text, {.parse_special = true});
      ASSERT_TRUE(ids) << ids.error().message;
      EXPECT_EQ(*ids, c["ids"].get<std::vector<TokenId>>()) << name << ": '" << text << "'";
      EXPECT_EQ(t->decode(c["ids"].get<std::vector<TokenId>>(), false), c["decoded"].get<std::string>())
          << name << ": '" << text << "'";
    }
  }
}

TEST(SentencePieceRefusals, NameWhatIsWrong) {
  const auto refusal = [](const std::string& bytes) {
    const auto t = Tokenizer::from_sentencepiece(bytes);
    return t ? "accepted" : t.error().message;
  };
  EXPECT_THAT(refusal(""), HasSubstr("no pieces"));
  EXPECT_THAT(refusal(tiny(4)), HasSubstr("model type 4"));
  EXPECT_THAT(refusal(tiny(2, bytes_field(3, bytes_field(2, "map")))), HasSubstr("charsmap"));
  EXPECT_THAT(refusal(tiny(2, piece("a", 0))), HasSubstr("two ids"));
  EXPECT_THAT(refusal(tiny(2, piece("x", NAN))), HasSubstr("finite"));
  EXPECT_THAT(refusal(tiny(2, piece("", 0))), HasSubstr("empty piece"));
  EXPECT_THAT(refusal(tiny(2, piece("x", 0, 9))), HasSubstr("type 9"));
  EXPECT_THAT(refusal(tiny(2, piece("\xff", 0))), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal(tiny(2, piece("nobyte", 0, 6))), HasSubstr("name of a byte"));
  EXPECT_THAT(refusal(tiny(2, bytes_field(2, number_field(35, 1)))), HasSubstr("256 byte pieces"));
  EXPECT_THAT(refusal(tiny(2, bytes_field(2, number_field(40, 5)))), HasSubstr("unknown piece"));
  EXPECT_THAT(refusal(tiny(2, varint(1 << 3 | 2) + varint(100) + "x")), HasSubstr("longer than"));
  EXPECT_THAT(refusal(std::string(20, '\xff')), HasSubstr("protobuf"));
  EXPECT_THAT(refusal("\x0b"), HasSubstr("wire type"));
}

TEST(SentencePieceFuzz, MutatedModelsLoadOrFailButNeverCrash) {
  Rng rng(13);
  for (int i = 0; i < 6000; ++i) {
    std::string bytes = tiny(1 + rng.below(2));
    for (u64 n = 1 + rng.below(4); n > 0 && !bytes.empty(); --n) {
      const std::size_t at = rng.below(bytes.size());
      if (rng.below(3) == 0) {
        bytes.erase(at, 1 + rng.below(3));
      } else {
        bytes[at] = static_cast<char>(rng.below(256));
      }
    }
    const auto t = Tokenizer::from_sentencepiece(bytes);
    if (!t) continue;
    const auto ids = (*t)->encode("ab <s> azb");
    if (ids) (void)(*t)->decode(*ids);
  }
}

}  // namespace
}  // namespace trireme::text
