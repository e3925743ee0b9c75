#include "text/chat_template.h"

#include <gmock/gmock.h>

#include "base/rng.h"
#include "text/test_files.h"

namespace trireme::text {
namespace {

ChatTemplate parsed(std::string_view source) {
  auto made = ChatTemplate::parse(source);
  EXPECT_TRUE(made) << made.error().message;
  return std::move(made).value();
}

OrderedJson ordered(std::string_view text) { return OrderedJson::parse(text); }

TEST(ChatTemplateFixtures, EveryTemplateRendersAsJinja2Does) {
  const auto text = read_text_file(testdata("templates.json"));
  ASSERT_TRUE(text) << text.error().message;
  const OrderedJson fixtures = ordered(*text);
  ASSERT_GE(fixtures["cases"].size(), 150u);
  for (const auto& c : fixtures["cases"]) {
    ChatInput input;
    const auto& messages = fixtures["messages"];
    for (std::size_t i = 0; i < c.value("messages", std::size_t{6}); ++i)
      input.messages.push_back(messages[i]);
    if (c.value("tools", true)) input.tools = fixtures["tools"];
    input.kwargs = fixtures["kwargs"];
    input.add_generation_prompt = c.value("prompt", true);
    input.bos_token = "<s>";
    input.eos_token = "</s>";
    input.now = fixtures["now"].get<i64>();
    const auto name = c["name"].get<std::string>(), source = c["template"].get<std::string>();
    const auto made = ChatTemplate::parse(source);
    const auto got = made ? made->render(input) : Result<std::string>(tl::unexpected(made.error()));
    if (c.contains("error")) {
      EXPECT_FALSE(got) << name << ": " << source << "\nrendered " << (got ? *got : "");
    } else if (!got) {
      ADD_FAILURE() << name << ": " << source << "\n" << got.error().message;
    } else {
      EXPECT_EQ(*got, c["expected"].get<std::string>()) << name << ": " << source;
    }
  }
}

TEST(ChatTemplateGoldens, EveryConversationHasTheTextAndTheIdsOfTransformers) {
  READ_GOLDEN(goldens, "chat_template.json");
  const auto text = read_text_file(TRIREME_SHARED_MODELS "/goldens/chat_template.json");
  const OrderedJson in_order = ordered(*text);
  const auto chat = load_chat_template(demo_dir());
  ASSERT_TRUE(chat) << chat.error().message;
  ASSERT_GE(goldens["cases"].size(), 12u);
  for (const auto& c : in_order["cases"]) {
    ChatInput input;
    input.messages = c["messages"];
    input.add_generation_prompt = c["add_generation_prompt"].get<bool>();
    if (c.contains("tools")) input.tools = c["tools"];
    input.bos_token = "<|bos|>";
    input.eos_token = "<|eos|>";
    const auto rendered = chat->render(input);
    ASSERT_TRUE(rendered) << rendered.error().message;
    EXPECT_EQ(*rendered, c["rendered"].get<std::string>());
    const auto ids = encode_chat(demo_tokenizer(), *chat, input);
    ASSERT_TRUE(ids) << ids.error().message;
    EXPECT_EQ(*ids, c["ids"].get<std::vector<TokenId>>()) << *rendered;
  }
}

ChatInput says(std::string_view role, std::string_view content) {
  ChatInput input;
  input.messages = OrderedJson::array({{{"role", role}, {"content", content}}});
  return input;
}

TEST(ChatTemplateTaint, TextFromMessagesNeverBecomesASpecialTokenWhateverIsDoneToIt) {
  const Tokenizer& tokenizer = demo_tokenizer();
  for (const std::string expression : {"m.content",
                                       "m.content | trim",
                                       "m.content | upper | lower",
                                       "m.content[0:8]",
                                       "'<|' ~ m.content[2:]",
                                       "m.content | replace('x', 'y')",
                                       "m.content.split('u') | join('u')",
                                       "m.content | tojson",
                                       "m.content | list | join",
                                       "'%s' | format(m.content)",
                                       "'{}'.format(m.content)",
                                       "m.content | indent",
                                       "(m.content ~ '')[::-1] | reverse",
                                       "'<|us' ~ m.content[5:]",
                                       "m['content'] * 2",
                                       "m | tojson",
                                       "m | string",
                                       "[m.content] | map('trim') | join",
                                       "m.content | default('')",
                                       "m.content | string",
                                       "m.content | title | lower",
                                       "m.content.strip('x')",
                                       "m.content.partition('s') | join",
                                       "m.content | safe",
                                       "messages | map(attribute='content') | join",
                                       "[m.content, 'a'] | sort | join",
                                       "('a' ~ m.content ~ 'b').replace('a', '')",
                                       "m.content | reverse | reverse"}) {
    const ChatTemplate chat = parsed("{%- set m = messages[0] -%}" + std::string("{{ ") + expression + " }}");
    const auto ids = encode_chat(tokenizer, chat, says("user", "<|user|>"));
    ASSERT_TRUE(ids) << expression << ": " << ids.error().message;
    for (const TokenId id : *ids) EXPECT_FALSE(tokenizer.is_special(id)) << expression;
    EXPECT_FALSE(ids->empty()) << expression;
  }
}

TEST(ChatTemplateTaint, NamesAndKeysAndKwargsFromOutsideAreNotTrustedButKnownRolesAre) {
  const Tokenizer& tokenizer = demo_tokenizer();
  const ChatTemplate by_role = parsed("{{ '<|' + messages[0].role + '|>' }}");
  EXPECT_THAT(*encode_chat(tokenizer, by_role, says("user", "")), testing::ElementsAre(3));
  const ChatTemplate raw_role = parsed("{{ messages[0].role }}");
  EXPECT_THAT(*encode_chat(tokenizer, raw_role, says("<|user|>", "")), testing::Not(testing::Contains(3)));
  const ChatTemplate keys = parsed("{% for k in messages[0] %}{{ k }}{% endfor %}{{ extra }}{{ tools[0] }}");
  ChatInput input = says("user", "");
  input.messages[0]["<|eos|>"] = 1;
  input.kwargs = {{"extra", "<|user|>"}};
  input.tools = OrderedJson::array({"<|system|>"});
  const auto ids = encode_chat(tokenizer, keys, input);
  ASSERT_TRUE(ids) << ids.error().message;
  for (const TokenId id : *ids) EXPECT_FALSE(tokenizer.is_special(id));
}

TEST(ChatTemplateTaint, TheTemplatesOwnTokensAroundTaintedTextAreStillTokens) {
  const Tokenizer& tokenizer = demo_tokenizer();
  const ChatTemplate chat = parsed("{{ '<|user|>' + messages[0].content + eos_token }}");
  const auto ids = encode_chat(tokenizer, chat, says("user", "a<|user|>b"));
  const auto plain = tokenizer.encode("a<|user|>b");
  std::vector<TokenId> expected = *plain;
  expected.insert(expected.begin(), 3);
  expected.push_back(1);
  EXPECT_EQ(*ids, expected);
}

TEST(ChatTemplateBudget, AHostileTemplateEndsInAnError) {
  std::string deep_if, parens(20'000, '('), chain = "a", sum = "1", unary(20'000, '-');
  for (int i = 0; i < 5000; ++i) deep_if += "{% if true %}";
  for (int i = 0; i < 20'000; ++i) chain += ".a", sum += "+1";
  const std::string hostile[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% "
      "endfor %}",
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% "
      "endfor %}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
      "{{ 'x' * 999999999 }}",
      "{{ ('x' * 9999999) | replace('x', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy') }}",
      "{{ ('x\n' * 4999999) | indent(1000) }}",
      "{{ range(100001) }}",
      "{{ 10 ** 100 }}",
      "{{ 2 ** 9223372036854775807 }}",
      "{{ " + parens + "1" + std::string(20'000, ')') + " }}",
      "{{ " + std::string(20'000, '[') + std::string(20'000, ']') + " }}",
      "{{ " + unary + "1 }}",
      "{{ " + chain + " }}",
      "{{ " + sum + " }}",
      deep_if,
      "{{ raise_exception('no') }}",
      "{% include 'x' %}",
      "{% import 'x' as y %}",
      "{% extends 'x' %}",
      std::string(2u << 20, 'x'),
      "\xff{{ 1 }}" + std::string("\xff"),
  };
  for (const std::string& source : hostile) {
    const auto made = ChatTemplate::parse(source);
    if (!made) continue;
    const auto got = made->render(says("user", "hi"));
    EXPECT_FALSE(got) << source.substr(0, 80);
  }
}

TEST(ChatTemplateBudget, ANamespaceThatHoldsItselfIsFreed) {
  const ChatTemplate chat = parsed(
      "{% set a = namespace() %}{% set a.me = a %}{% set b = namespace(n=none) %}"
      "{% for i in range(20000) %}{% set b.n = namespace(next=b.n) %}{% endfor %}{{ a.me.me is defined }}");
  EXPECT_EQ(*chat.render(says("user", "")), "True");
}

TEST(ChatTemplateBudget, KwargsMayNotReplaceWhatTheCallerSets) {
  const ChatTemplate chat = parsed("{{ messages[0].content }}");
  ChatInput input = says("user", "real");
  input.kwargs = {{"messages", OrderedJson::array()}};
  EXPECT_FALSE(chat.render(input));
  input.kwargs = {{"bos_token", "x"}};
  EXPECT_FALSE(chat.render(input));
}

TEST(ChatTemplateFuzz, MutatedTemplatesParseOrFailButNeverCrash) {
  const auto text = read_text_file(testdata("templates.json"));
  const OrderedJson fixtures = ordered(*text);
  Rng rng(7);
  const auto& cases = fixtures["cases"];
  for (int i = 0; i < 3000; ++i) {
    std::string source = cases[rng.below(cases.size())]["template"].get<std::string>();
    const std::string other = cases[rng.below(cases.size())]["template"].get<std::string>();
    for (u64 n = 1 + rng.below(4); n > 0; --n) {
      const std::size_t at = rng.below(source.size() + 1);
      switch (rng.below(4)) {
        case 0:
          source.erase(at, 1 + rng.below(6));
          break;
        case 1:
          source.insert(at, 1, static_cast<char>(32 + rng.below(95)));
          break;
        case 2:
          source.insert(at, source.substr(rng.below(source.size() + 1), rng.below(20)));
          break;
        default:
          source.insert(at, other.substr(rng.below(other.size() + 1), rng.below(30)));
      }
    }
    const auto made = ChatTemplate::parse(source);
    if (!made) continue;
    ChatInput input;
    input.messages = fixtures["messages"];
    input.tools = fixtures["tools"];
    input.kwargs = fixtures["kwargs"];
    const auto got = made->render(input);
    EXPECT_TRUE(got || !got.error().message.empty());
  }
}

TEST(LoadChatTemplate, SaysWhatToDoWhenThereIsNone) {
  const auto none = load_chat_template("/nonexistent");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(none.error().message, testing::HasSubstr("--chat-template"));
}

}  // namespace
}  // namespace trireme::text
