#include "text/scanner.h"

#include <unicode/uchar.h>

#include "base/rng.h"
#include "text/pre_tokenizer.h"
#include "text/test_files.h"

namespace trireme::text {
namespace {

std::vector<std::string> words_of_scanner(ScannerKind kind, std::string_view text) {
  std::vector<std::string> words;
  std::size_t ends[7], pos = 0, from = 0;
  while (const std::size_t n = scan(kind, text, pos, ends)) {
    for (std::size_t i = 0; i < n; ++i) {
      words.emplace_back(text.substr(from, ends[i] - from));
      from = ends[i];
    }
  }
  return words;
}

PreTokenizer by_regex(ScannerKind kind) {
  Json steps = Json::array();
  for (const auto pattern : patterns_of(kind)) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", std::string(pattern)}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  auto made = PreTokenizer::parse({{"type", "Sequence"}, {"pretokenizers", steps}}, false);
  EXPECT_TRUE(made) << made.error().message;
  return std::move(made).value();
}

// ICU and PCRE2 may know different versions of Unicode: only characters that both know.
u32 random_character(Rng& rng) {
  static const std::vector<u32> kTricky = {
      ' ',     ' ',    '\n',   '\r',   '\t',   0xA0,   0x85,     0x2028, 0x3000, 0x180E,  0x1C,
      0,       0x200B, 0x7F,   '\'',   's',    'S',    't',      'l',    'L',    'v',     'e',
      'r',     'd',    'm',    0x17F,  0x212A, 'a',    'Z',      '1',    '9',    '.',     ',',
      '$',     '_',    '<',    '|',    0xE9,   0x301,  0x4E00,   0x9FA5, 0x9FA6, 0x3041,  0x3099,
      0x309B,  0x30FB, 0x30FC, 0x30A0, 0x3040, 0x660,  0xB2,     0x2160, 0x20AC, 0x1F600, 0xFE0F,
      0x1F1E6, 0x5D0,  0x94D,  0x939,  0x2D,   0x2014, 0x10FFFF, 0xE000, 0xAD,   0xFEFF};
  while (true) {
    const u32 c = rng.below(4) > 0 ? kTricky[rng.below(kTricky.size())]
                                   : static_cast<u32>(rng.below(rng.below(2) ? 0x3000 : 0x20000));
    UVersionInfo age;
    u_charAge(static_cast<UChar32>(c), age);
    if ((c < 0xD800 || c > 0xDFFF) && age[0] <= 14) return c;
  }
}

class EveryScanner : public testing::TestWithParam<ScannerKind> {};

TEST_P(EveryScanner, CutsRandomTextAsItsRegularExpressionsDo) {
  const PreTokenizer regex = by_regex(GetParam());
  Rng rng(static_cast<u64>(GetParam()) + 1);
  for (int i = 0; i < 30'000; ++i) {
    std::string text;
    for (u64 n = rng.below(24); n > 0; --n) {
      const u32 c = random_character(rng);
      for (u64 times = rng.below(8) ? 1 : 1 + rng.below(12); times > 0; --times) append_utf8(text, c);
    }
    Pieces pieces;
    ASSERT_TRUE(regex.split(text, true, pieces));
    const std::vector<std::string> expected(pieces.words.begin(), pieces.words.end());
    ASSERT_EQ(words_of_scanner(GetParam(), text), expected) << i << ": " << Json(text).dump(-1, ' ', true);
  }
}

TEST_P(EveryScanner, CoversTextWithoutGapsAndInOrder) {
  std::string text;
  Rng rng(3);
  for (int i = 0; i < 100'000; ++i) append_utf8(text, random_character(rng));
  std::string joined;
  for (const auto& word : words_of_scanner(GetParam(), text)) {
    ASSERT_FALSE(word.empty());
    joined += word;
  }
  EXPECT_EQ(joined, text);
}

INSTANTIATE_TEST_SUITE_P(Scanner, EveryScanner,
                         testing::Values(ScannerKind::kDeepSeekV3, ScannerKind::kGpt2, ScannerKind::kCl100k,
                                         ScannerKind::kQwen2));

TEST(PreTokenizer, RecognisesTheDemoModelsPatterns) {
  const Json config = json_of(demo_dir() + "/tokenizer.json");
  const auto made = PreTokenizer::parse(config["pre_tokenizer"]);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->scanner(), ScannerKind::kDeepSeekV3);
}

}  // namespace
}  // namespace trireme::text
