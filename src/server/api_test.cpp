// The OpenAI API over real sockets: what good requests get.
#include "server/testing/fixture.h"

namespace trireme::server {
namespace {

TEST(Api, ChatAnswersWithTheModelsTextAndUsage) {
  const Serving s;
  const auto a = s.chat({});
  ASSERT_EQ(a.status, 200) << a.body;
  const auto j = a.json();
  EXPECT_EQ(j["object"], "chat.completion");
  EXPECT_TRUE(j["id"].get<std::string>().starts_with("chatcmpl-"));
  EXPECT_EQ(j["model"], "demo");
  EXPECT_EQ(j["choices"][0]["message"]["content"], chat_text(8));
  EXPECT_EQ(j["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(j["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(j["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(j["usage"]["completion_tokens"], 8);
  EXPECT_EQ(j["usage"]["total_tokens"], 12);
  EXPECT_EQ(j["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

TEST(Api, AStreamNamesTheRoleThenTheTextThenTheReasonThenUsage) {
  const Serving s;
  const auto a = s.chat({{"stream", true}, {"stream_options", {{"include_usage", true}}}});
  ASSERT_EQ(a.status, 200) << a.body;
  EXPECT_TRUE(a.header("Content-Type").starts_with("text/event-stream"));
  auto events = a.events();
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events.back(), "[DONE]");
  events.pop_back();
  std::string text;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const auto j = Json::parse(events[i]);
    EXPECT_EQ(j["object"], "chat.completion.chunk");
    if (i == 0) {
      EXPECT_EQ(j["choices"][0]["delta"]["role"], "assistant");
    } else if (i + 1 == events.size()) {
      EXPECT_TRUE(j["choices"].empty());
      EXPECT_EQ(j["usage"]["completion_tokens"], 8);
    } else if (i + 2 == events.size()) {
      EXPECT_EQ(j["choices"][0]["finish_reason"], "length");
      EXPECT_TRUE(j["choices"][0]["delta"].empty());
      EXPECT_TRUE(j["usage"].is_null());
    } else {
      EXPECT_TRUE(j["choices"][0]["finish_reason"].is_null());
      text += j["choices"][0]["delta"]["content"];
    }
  }
  EXPECT_EQ(text, chat_text(8));
}

TEST(Api, EveryChoiceOfAStreamIsWholeAndCarriesItsIndex) {
  const Serving s;
  const auto a = s.complete({{"stream", true}, {"n", 3}, {"max_tokens", 20}});
  ASSERT_EQ(a.status, 200) << a.body;
  std::map<int, std::string> texts;
  std::map<int, int> finished;
  for (const auto& event : a.events()) {
    if (event == "[DONE]") continue;
    const auto j = Json::parse(event);
    const int index = j["choices"][0]["index"];
    texts[index] += j["choices"][0]["text"];
    finished[index] += !j["choices"][0]["finish_reason"].is_null();
  }
  ASSERT_EQ(texts.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(texts[i], completion_text(20));
    EXPECT_EQ(finished[i], 1);
  }
}

TEST(Api, CompletionsTakeEveryFormOfPrompt) {
  const Serving s;
  EXPECT_EQ(s.complete({}).json()["choices"][0]["text"], completion_text(8));
  EXPECT_EQ(s.complete({{"prompt", {104, 105}}}).json()["choices"][0]["text"], completion_text(8));
  const auto many = s.complete({{"prompt", {"hi", "ho"}}, {"n", 2}}).json();
  ASSERT_EQ(many["choices"].size(), 4u);
  EXPECT_EQ(many["choices"][1]["text"], completion_text(8));
  EXPECT_EQ(many["choices"][2]["text"], fake_continuation({'h', 'o'}, 8));
  EXPECT_EQ(many["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(s.complete({{"prompt", {{104, 105}, {104}}}}).json()["choices"].size(), 2u);
}

TEST(Api, DefaultLengthsAreSixteenForCompletionsAndTheContextForChats) {
  const Serving s({}, 100);
  EXPECT_EQ(s.complete({{"max_tokens", nullptr}}).json()["usage"]["completion_tokens"], 16);
  EXPECT_EQ(s.chat({{"max_tokens", nullptr}}).json()["usage"]["completion_tokens"], 96);
  EXPECT_EQ(s.chat({{"max_tokens", 5}, {"max_completion_tokens", 7}}).json()["usage"]["completion_tokens"],
            7);
}

TEST(Api, AStopStringEndsTheTextAndTheEnginesWork) {
  Serving s;
  const auto whole = completion_text(400);
  const auto stop = whole.substr(9, 4);
  const auto end = whole.find(stop);
  const auto a = s.complete({{"stop", {"never", stop}}, {"max_tokens", 400}}).json();
  EXPECT_EQ(a["choices"][0]["text"], whole.substr(0, end));
  EXPECT_EQ(a["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(a["usage"]["completion_tokens"], end + 4);
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }));
  const auto kept =
      s.complete({{"stop", stop}, {"max_tokens", 400}, {"include_stop_str_in_output", true}}).json();
  EXPECT_EQ(kept["choices"][0]["text"], whole.substr(0, end + 4));
}

TEST(Api, TheEndOfSequenceTokenIsCountedAndNotShown) {
  Serving s;
  s.engine.eos_after = 3;
  const auto a = s.chat({}).json();
  EXPECT_EQ(a["choices"][0]["message"]["content"], chat_text(3));
  EXPECT_EQ(a["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(a["usage"]["completion_tokens"], 4);
}

TEST(Api, LogprobsHaveBothApisForms) {
  const Serving s;
  const auto chat = s.chat({{"logprobs", true}, {"top_logprobs", 2}, {"max_tokens", 3}}).json();
  const auto& content = chat["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 3u);
  EXPECT_EQ(content[0]["token"], chat_text(1));
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["bytes"][0], static_cast<int>(chat_text(1)[0]));
  EXPECT_EQ(content[0]["top_logprobs"].size(), 2u);

  const auto old = s.complete({{"logprobs", 2}, {"max_tokens", 3}}).json()["choices"][0]["logprobs"];
  EXPECT_EQ(old["tokens"].size(), 3u);
  EXPECT_EQ(old["token_logprobs"][2], -0.5);
  EXPECT_EQ(old["top_logprobs"][0].size(), 3u);  // the two best, and the chosen one
  EXPECT_EQ(old["text_offset"], Json({0, 1, 2}));
}

TEST(Api, EveryTokensLogprobIsInSomeChunkOfAStream) {
  const Serving s;
  std::size_t seen = 0;
  for (const auto& event : s.chat({{"logprobs", true}, {"stream", true}, {"max_tokens", 30}}).events()) {
    if (event == "[DONE]") continue;
    const auto j = Json::parse(event);
    if (!j["choices"][0]["logprobs"].is_null()) seen += j["choices"][0]["logprobs"]["content"].size();
  }
  EXPECT_EQ(seen, 30u);
}

TEST(Api, EchoPutsThePromptBeforeTheText) {
  const Serving s;
  EXPECT_EQ(s.complete({{"echo", true}}).json()["choices"][0]["text"], "hi" + completion_text(8));
  std::string text;
  for (const auto& event : s.complete({{"echo", true}, {"stream", true}}).events()) {
    if (event != "[DONE]") text += Json::parse(event)["choices"][0]["text"];
  }
  EXPECT_EQ(text, "hi" + completion_text(8));
}

TEST(Api, EveryParameterReachesTheEngine) {
  const Serving s;
  const Json body = {{"temperature", 0.5},
                     {"top_p", 0.25},
                     {"top_k", 7},
                     {"min_p", 0.125},
                     {"repetition_penalty", 1.5},
                     {"presence_penalty", -1},
                     {"frequency_penalty", 2},
                     {"seed", 42},
                     {"logit_bias", {{"5", -100}, {"6", 2.5}}},
                     {"min_tokens", 2},
                     {"ignore_eos", true},
                     {"stop_token_ids", {9}},
                     {"priority", -3},
                     {"cache_salt", "salt"},
                     {"timeout", 60},
                     {"user", "u"}};
  ASSERT_EQ(s.complete(body).status, 200);
  const auto r = s.engine.request_seen();
  EXPECT_EQ(r.sampling.temperature, 0.5);
  EXPECT_EQ(r.sampling.top_p, 0.25);
  EXPECT_EQ(r.sampling.top_k, 7);
  EXPECT_EQ(r.sampling.min_p, 0.125);
  EXPECT_EQ(r.sampling.repetition_penalty, 1.5);
  EXPECT_EQ(r.sampling.presence_penalty, -1);
  EXPECT_EQ(r.sampling.frequency_penalty, 2);
  EXPECT_EQ(r.sampling.seed, 42u);
  EXPECT_EQ(r.sampling.logit_bias, (std::vector<std::pair<TokenId, float>>{{5, -100.f}, {6, 2.5f}}));
  EXPECT_EQ(r.sampling.min_tokens, 2);
  EXPECT_EQ(r.sampling.max_tokens, 8);
  EXPECT_TRUE(r.sampling.ignore_eos);
  EXPECT_EQ(r.sampling.stop_token_ids, std::vector<TokenId>{9});
  EXPECT_EQ(r.priority, -3);
  EXPECT_EQ(r.cache_salt, "salt");
  EXPECT_EQ(r.timeout, std::chrono::seconds(60));
}

TEST(Api, MessagesMayBePartsOfText) {
  const Serving s;
  const Json messages = {
      {{"role", "user"},
       {"content", {{{"type", "text"}, {"text", "h"}}, {{"type", "text"}, {"text", "i"}}}}}};
  EXPECT_EQ(s.chat({{"messages", messages}}).json()["choices"][0]["message"]["content"], chat_text(8));
}

TEST(Api, ToolsReachTheTemplateUnlessTheChoiceIsNone) {
  const Serving s;
  const Json tools = {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", Json::object()}}}}};
  EXPECT_EQ(s.chat({{"tools", tools}}).json()["usage"]["prompt_tokens"], 5);
  EXPECT_EQ(s.chat({{"tools", tools}, {"tool_choice", "auto"}}).json()["usage"]["prompt_tokens"], 5);
  EXPECT_EQ(s.chat({{"tools", tools}, {"tool_choice", "none"}}).json()["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(s.chat({{"tools", tools}, {"tool_choice", "required"}}).status, 400);
}

TEST(Api, ModelsAreListedUnderEveryNameTheyAreServedAs) {
  ServerOptions options;
  options.served_model_names = {"big/model", "alias"};
  const Serving s(options);
  const auto list = s.get("/v1/models").json();
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][0]["id"], "big/model");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(s.get("/v1/models/big/model").json()["id"], "big/model");
  EXPECT_EQ(s.get("/v1/models/big%2Fmodel").json()["id"], "big/model");
  EXPECT_EQ(s.get("/v1/models/demo").status, 404);
  EXPECT_EQ(s.chat({{"model", "alias"}}).json()["model"], "big/model");
  EXPECT_EQ(s.chat({}).status, 404);
  EXPECT_EQ(s.chat({}).json()["error"]["code"], "model_not_found");
}

TEST(Api, TokenizeAndDetokenizeAreInversesOfEachOther) {
  const Serving s;
  const auto t = s.post("/tokenize", R"({"prompt":"h\u00e9","return_token_strs":true})").json();
  EXPECT_EQ(t["count"], 3);
  EXPECT_EQ(t["tokens"], Json({104, 195, 169}));
  EXPECT_EQ(t["token_strs"].size(), 3u);
  EXPECT_EQ(s.post("/detokenize", R"({"tokens":[104,195,169]})").json()["prompt"], "h\u00e9");
  EXPECT_EQ(s.post("/tokenize", R"({"messages":[{"role":"user","content":"x"}]})").json()["count"], 3);
  EXPECT_EQ(s.post("/detokenize", R"({"tokens":[300]})").status, 400);
}

TEST(Api, MetricsFollowWhatHappened) {
  const Serving s;
  ASSERT_EQ(s.chat({}).status, 200);
  ASSERT_EQ(s.chat({{"n", 0}}).status, 400);
  const auto a = s.get("/metrics");
  EXPECT_TRUE(a.header("Content-Type").starts_with("text/plain; version=0.0.4"));
  const auto has = [&](std::string_view line) { return a.body.find(line) != std::string::npos; };
  EXPECT_TRUE(
      has("vllm:request_success_total{model_name=\"demo\",engine=\"0\",finished_reason=\"length\"} 1\n"))
      << a.body;
  EXPECT_TRUE(has("vllm:generation_tokens_total{model_name=\"demo\",engine=\"0\"} 8\n"));
  EXPECT_TRUE(has("vllm:kv_cache_usage_perc{model_name=\"demo\",engine=\"0\"} 0.25\n"));
  EXPECT_TRUE(has("sglang:time_to_first_token_seconds_count{model_name=\"demo\",engine=\"0\"} 1\n"));
  EXPECT_TRUE(has("trireme:inter_token_latency_seconds_count{model_name=\"demo\",engine=\"0\"} 7\n"));
  EXPECT_TRUE(has("trireme:requests_rejected_total{model_name=\"demo\",engine=\"0\",code=\"400\"} 1\n"));
}

TEST(Api, AnEngineFaultIsAStatusBeforeTheFirstByteAndAnEventAfterIt) {
  Serving s;
  s.engine.fail_after = 0;
  EXPECT_EQ(s.chat({}).status, 500);
  EXPECT_EQ(s.chat({{"stream", true}}).status, 500);
  s.engine.fail_after = 3;
  EXPECT_EQ(s.chat({}).status, 500);
  const auto events = s.chat({{"stream", true}}).events();
  ASSERT_GE(events.size(), 2u);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(Json::parse(events[events.size() - 2])["error"]["message"], "a fault for the test");
}

TEST(Api, ARequestPastItsTimeoutIsA504) {
  Serving s;
  s.engine.hung = true;
  const auto a = s.chat({{"timeout", 0.05}});
  EXPECT_EQ(a.status, 504);
  EXPECT_EQ(a.json()["error"]["code"], "deadline_exceeded");
}

TEST(Api, AFullQueueIsA429ThatSaysWhenToComeBack) {
  Serving s;
  s.engine.max_waiting = 2;
  const auto a = s.chat({{"n", 3}});
  EXPECT_EQ(a.status, 429);
  EXPECT_EQ(a.header("Retry-After"), "3");
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }))
      << "the choices that were taken are given back";
  EXPECT_EQ(s.chat({{"n", 2}}).status, 200);
}

}  // namespace
}  // namespace trireme::server
