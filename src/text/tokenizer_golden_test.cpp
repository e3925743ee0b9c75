#include "text/detokenizer.h"
#include "text/test_files.h"

namespace trireme::text {
namespace {

TEST(TokenizerGoldens, EveryStringHasTheIdsAndTheTextOfTheReference) {
  READ_GOLDEN(goldens, "tokenizer.json");
  const Tokenizer& tokenizer = demo_tokenizer();
  ASSERT_GE(goldens["strings"].size(), 300u);
  for (const Json& golden : goldens["strings"]) {
    const auto text = golden["text"].get<std::string>();
    const auto ids = golden["ids"].get<std::vector<TokenId>>();
    const auto got = tokenizer.encode(text, {.parse_special = true});
    ASSERT_TRUE(got) << got.error().message;
    EXPECT_EQ(*got, ids) << text;
    EXPECT_EQ(tokenizer.decode(ids, false), golden["decoded"].get<std::string>()) << text;
  }
}

}  // namespace
}  // namespace trireme::text
