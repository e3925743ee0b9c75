// Requests that are wrong, and what they get: a 4xx in OpenAI's form, soon, while others go on.
#include <array>
#include <cmath>

#include "server/openai/body.h"
#include "server/openai/json_text.h"
#include "server/testing/fixture.h"

namespace trireme::server {
namespace {

void expect_refused(const Answer& a, const std::string& what) {
  EXPECT_GE(a.status, 400) << what << "\n" << a.body;
  EXPECT_LT(a.status, 500) << what << "\n" << a.body;
  const auto j = a.json();
  ASSERT_TRUE(j.is_object() && j.contains("error")) << what << "\n" << a.body;
  for (const auto* member : {"message", "type", "param", "code"})
    EXPECT_TRUE(j["error"].contains(member)) << what;
  EXPECT_FALSE(j["error"]["message"].get<std::string>().empty()) << what;
}

// The bodies are text, as half of these values cannot be written by a JSON library.
std::string body_with(bool chat, const std::string& name, const std::string& value) {
  std::string out = chat ? R"({"messages":[{"role":"user","content":"hi"}])" : R"({"prompt":"hi")";
  if (name != "model") out += R"(,"model":"demo")";
  if (name != "max_tokens") out += R"(,"max_tokens":2)";
  return out + ",\"" + name + "\":" + value + "}";
}

TEST(Torture, EveryParameterAtEveryBadValueIsRefusedOrLegalWhileAStreamGoesOn) {
  Serving s({}, 1000);
  s.engine.step_us = 3000;
  auto stream = s.client();
  stream.send(post_text("/v1/completions", R"({"prompt":"other","max_tokens":990,"stream":true})"));
  ASSERT_TRUE(stream.read_until("data: "));

  constexpr std::array kNames{"temperature",
                              "top_p",
                              "top_k",
                              "min_p",
                              "n",
                              "best_of",
                              "max_tokens",
                              "max_completion_tokens",
                              "min_tokens",
                              "presence_penalty",
                              "frequency_penalty",
                              "repetition_penalty",
                              "seed",
                              "logit_bias",
                              "logprobs",
                              "top_logprobs",
                              "echo",
                              "stop",
                              "stream",
                              "stream_options",
                              "ignore_eos",
                              "stop_token_ids",
                              "include_stop_str_in_output",
                              "skip_special_tokens",
                              "priority",
                              "user",
                              "cache_salt",
                              "timeout",
                              "response_format",
                              "tools",
                              "tool_choice",
                              "add_generation_prompt",
                              "continue_final_message",
                              "chat_template_kwargs",
                              "model",
                              "suffix",
                              "add_special_tokens",
                              "modalities"};
  constexpr std::array kValues{"-1",
                               "0",
                               "2147483648",
                               "18446744073709551616",
                               "NaN",
                               "1e309",
                               "-1e309",
                               "null",
                               "\"x\"",
                               "[]",
                               "{}",
                               "[[]]",
                               "true",
                               "0.5",
                               "[1e308]",
                               "[-1]",
                               "{\"-1\":1}",
                               "{\"1\":1e308}",
                               "\"\"",
                               "[null]",
                               "-9223372036854775808",
                               "1e-320",
                               "[\"\"]",
                               "{\"include_usage\":1}"};
  int refused = 0;
  double slowest = 0;
  auto client = s.client();
  for (const bool chat : {true, false}) {
    for (const auto* name : kNames) {
      for (const auto* value : kValues) {
        const auto what = fmt::format("{} {}={}", chat ? "chat" : "completions", name, value);
        const auto begin = std::chrono::steady_clock::now();
        client.send(
            post_text(chat ? "/v1/chat/completions" : "/v1/completions", body_with(chat, name, value)));
        const auto a = client.receive();
        const double ms =
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
        ASSERT_NE(a.status, 0) << what;
        if (a.status == 200) continue;
        expect_refused(a, what);
        slowest = std::max(slowest, ms);
        ++refused;
        if (std::string_view(value) != "NaN" && !std::string_view(value).ends_with("1e309")) {
          EXPECT_TRUE(a.json()["error"]["param"].is_string()) << what << a.body;
        }
      }
    }
  }
  EXPECT_GT(refused, 900);
  EXPECT_LT(slowest, 100);
  const auto rest = stream.receive();
  std::string text;
  for (const auto& event : rest.events()) {
    if (event != "[DONE]") text += Json::parse(event)["choices"][0]["text"];
  }
  EXPECT_EQ(text, fake_continuation(byte_tokens("other"), 990)) << "the neighbour's stream changed";
}

TEST(Torture, NumbersOutOfBoundsNeverReachTheEngine) {
  const Serving s;
  const std::vector<std::pair<const char*, std::vector<const char*>>> table = {
      {"temperature", {"-0.001", "2.001", "\"1\"", "true"}},
      {"top_p", {"0", "-1", "1.001"}},
      {"top_k", {"-2", "2147483648", "1.5"}},
      {"min_p", {"-0.1", "1.1"}},
      {"n", {"0", "-1", "129", "1.5", "18446744073709551616"}},
      {"max_tokens", {"0", "-1", "2147483648", "4095", "1.5"}},
      {"min_tokens", {"-1", "3", "2147483648"}},
      {"presence_penalty", {"-2.1", "2.1"}},
      {"frequency_penalty", {"-2.1", "2.1"}},
      {"repetition_penalty", {"0", "-1", "10.1"}},
      {"seed", {"18446744073709551615", "0.5", "\"1\""}},
      {"logit_bias",
       {"{\"300\":1}", "{\"x\":1}", "{\"1\":101}", "{\"1\":\"1\"}", "{\"-1\":1}", "{\" 1\":1}"}},
      {"logprobs", {"-1", "21", "\"1\""}},
      {"stop",
       {"\"\"", "[\"a\",\"\"]", "[1]", "{}",
        R"(["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])"}},
      {"stop_token_ids", {"[300]", "[-1]", "[0.5]", "1"}},
      {"timeout", {"0", "-1", "1e9"}},
      {"best_of", {"2", "0"}},
      {"suffix", {"\"x\""}},
      {"response_format",
       {"{\"type\":\"json_object\"}", "{\"type\":\"json_schema\",\"json_schema\":{}}", "\"text\""}},
      {"guided_json", {"{\"a\":1}"}},
      {"prompt_logprobs", {"-1", "1"}},
      {"use_beam_search", {"true"}},
      {"stream_options", {"{\"include_usage\":true}"}},
  };
  for (const auto& [name, values] : table) {
    for (const auto* value : values) {
      const auto a = s.post("/v1/completions", body_with(false, name, value));
      expect_refused(a, fmt::format("{}={}", name, value));
      EXPECT_EQ(a.json()["error"]["param"].get<std::string>().substr(0, std::string_view(name).size()), name)
          << a.body;
    }
  }
  EXPECT_EQ(s.engine.submitted, 0);
}

TEST(Torture, MessagesOfEveryWrongFormAreRefusedByName) {
  const Serving s;
  const std::vector<std::pair<const char*, const char*>> table = {
      {"[]", "messages"},
      {"\"hi\"", "messages"},
      {"{}", "messages"},
      {"null", "messages"},
      {"[1]", "messages[0]"},
      {"[{}]", "messages[0].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":null}])", "messages[0].content"},
      {R"([{"role":"user","content":1}])", "messages[0].content"},
      {R"([{"role":"user","content":{}}])", "messages[0].content"},
      {R"([{"role":1,"content":"x"}])", "messages[0].role"},
      {R"([{"role":"root","content":"x"}])", "messages[0].role"},
      {R"([{"role":"user","content":[1]}])", "messages[0].content[0]"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {R"([{"role":"user","content":[{"type":"text","text":1}]}])", "messages[0].content[0].text"},
      {R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://169.254.169.254/"}}]}])",
       "messages[0].content[0].type"},
      {R"([{"role":"assistant","tool_calls":1}])", "messages[0].tool_calls"},
      {R"([{"role":"assistant","tool_calls":[{"function":1}]}])", "messages[0].tool_calls[0]"},
  };
  for (const auto& [messages, param] : table) {
    const auto a =
        s.post("/v1/chat/completions", fmt::format(R"({{"model":"demo","messages":{}}})", messages));
    expect_refused(a, messages);
    EXPECT_EQ(a.json()["error"]["param"], param) << a.body;
  }
  const auto image = s.post("/v1/chat/completions", fmt::format(R"({{"messages":{}}})", table[15].first));
  EXPECT_NE(image.json()["error"]["message"].get<std::string>().find("image_url"), std::string::npos);
}

TEST(Torture, PromptsOfEveryWrongFormAreRefused) {
  const Serving s;
  for (const auto* prompt :
       {"null", "1", "{}", "[]", "[[]]", "[1,\"a\"]", "[\"a\",1]", "[[1],\"a\"]", "[300]", "[-1]", "[1.5]",
        "\"\"", "[\"\"]", "[true]", "2147483648", "[[1],[300]]"}) {
    const auto a = s.post("/v1/completions", fmt::format(R"({{"prompt":{}}})", prompt));
    expect_refused(a, prompt);
    EXPECT_EQ(a.json()["error"]["param"], "prompt") << prompt;
  }
  expect_refused(s.post("/v1/completions", "{}"), "no prompt");
}

TEST(Torture, APromptLongerThanTheContextSaysSo) {
  const Serving s({}, 64);
  for (const auto size : {64, 65, 100000, 20000000}) {
    const auto begin = std::chrono::steady_clock::now();
    const auto a =
        s.complete({{"prompt", std::string(static_cast<std::size_t>(size), 'x')}, {"max_tokens", nullptr}});
    expect_refused(a, std::to_string(size));
    EXPECT_EQ(a.json()["error"]["code"], "context_length_exceeded");
    if (size <= 100000) {
      EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 0.1);
    }
  }
  EXPECT_EQ(s.complete({{"prompt", std::string(63, 'x')}, {"max_tokens", nullptr}}).status, 200);
  const auto a = s.complete({{"prompt", std::string(60, 'x')}, {"max_tokens", 5}});
  expect_refused(a, "max_tokens");
  EXPECT_EQ(a.json()["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(s.complete({{"prompt", std::string(60, 'x')}, {"max_tokens", 4}}).status, 200);
}

TEST(Torture, TooManyChoicesAreRefusedBeforeAnyIsMade) {
  const Serving s;
  expect_refused(s.complete({{"prompt", std::vector<std::string>(65, "x")}, {"n", 2}}), "65 * 2");
  expect_refused(s.complete({{"n", 1000000}}), "n");
  EXPECT_EQ(s.engine.submitted, 0);
}

TEST(Torture, TemplateVariablesOfRequestsNeedTheServersLeave) {
  const Json kwargs = {{"chat_template_kwargs", {{"thinking", true}}}};
  expect_refused(Serving().chat(kwargs), "kwargs");
  ServerOptions options;
  options.allow_chat_template_kwargs = true;
  const Serving open(options);
  EXPECT_EQ(open.chat(kwargs).status, 200);
  expect_refused(open.chat({{"chat_template_kwargs", {{"messages", Json::array()}}}}), "override");
  expect_refused(open.chat({{"chat_template", "{{ x }}"}}), "template");
}

TEST(Torture, JsonOfEveryBadKindIsRefused) {
  const Serving s;
  std::string deep = R"({"prompt":"x","x":)" + std::string(100, '[') + std::string(100, ']') + "}";
  std::string deeper = std::string(1000000, '[');
  std::string keys = "{";
  for (int i = 0; i < 200000; ++i) keys += fmt::format("\"{}\":0,", i);
  keys += "\"prompt\":\"x\"}";
  for (const auto& body :
       {std::string(""), std::string("{"), std::string("nonsense"), std::string("[]"), std::string("\"x\""),
        deep, deeper, keys, std::string(R"({"prompt":"a","prompt":"b"})"),
        std::string("{\"prompt\":\"\xff\"}"), std::string(R"({"prompt":"\ud800"})"),
        std::string("{\"prompt\":\"a\"}x"), std::string("{\"prompt\":\"a\nb\"}"),
        std::string("\xef\xbb\xbf", 3), std::string(1, '\0')}) {
    const auto begin = std::chrono::steady_clock::now();
    expect_refused(s.post("/v1/completions", body), body.substr(0, 60));
    EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 0.3) << body.substr(0, 60);
  }
  EXPECT_EQ(s.engine.submitted, 0);
}

TEST(Torture, AnObjectWithManyKeysCostsNoMoreThanItsBytes) {
  std::string body = "{";
  for (int i = 0; i < 4000; ++i) body += fmt::format("\"{}\":0,", i);
  EXPECT_TRUE(parse_body(body + "\"x\":0}"));
  for (int i = 4000; i < 100000; ++i) body += fmt::format("\"{}\":0,", i);
  EXPECT_FALSE(parse_body(body + "\"x\":0}"));
}

TEST(JsonText, WhatIsWrittenIsReadBackWhateverTheBytes) {
  const auto round = [](std::string_view text) {
    std::string out;
    append_json_string(out, text);
    return Json::parse(out).get<std::string>();
  };
  for (const std::string& text : {std::string("plain"), std::string("\"\\/\b\f\n\r\t\x01\x1f\x7f"),
                                  std::string("h\u00e9 \u20ac \U0001F600"), std::string("a\0b", 3)}) {
    EXPECT_EQ(round(text), text);
  }
  EXPECT_EQ(round("a\xff"), "a\ufffd");
  EXPECT_EQ(round("\xe2\x82"), "\ufffd\ufffd");
  EXPECT_EQ(round("\xed\xa0\x80").find('\xed'), std::string::npos) << "surrogates are not UTF-8";
  std::string number;
  append_json_number(number, -INFINITY);
  EXPECT_TRUE(Json::parse(number).is_number());
}

}  // namespace
}  // namespace trireme::server
