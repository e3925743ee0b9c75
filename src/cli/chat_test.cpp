#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "cli/chat_session.h"
#include "cli/http_test_server.h"
#include "server/testing/fake_text.h"

namespace trireme::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> prompts_of(std::initializer_list<std::string_view> input) {
  PromptLines lines;
  std::vector<std::string> out;
  for (const auto line : input) {
    if (auto prompt = lines.add(line)) out.push_back(*prompt);
  }
  if (lines.open()) out.push_back("open:" + lines.take_rest());
  return out;
}

TEST(PromptLines, OneLineIsAPrompt) { EXPECT_THAT(prompts_of({"a", "b"}), ElementsAre("a", "b")); }
TEST(PromptLines, ABackslashGoesOn) {
  EXPECT_THAT(prompts_of({"a\\", "b\\", "c", "d"}), ElementsAre("a\nb\nc", "d"));
}
TEST(PromptLines, ABlockHoldsLines) {
  EXPECT_THAT(prompts_of({"\"\"\"", "a\\", "", "b", "\"\"\"", "c"}), ElementsAre("a\\\n\nb", "c"));
  EXPECT_THAT(prompts_of({"\"\"\"a", "b\"\"\""}), ElementsAre("a\nb"));
  EXPECT_THAT(prompts_of({"\"\"\"a\"\"\"", "c"}), ElementsAre("a", "c"));
}
TEST(PromptLines, AnOpenPromptIsKnown) { EXPECT_THAT(prompts_of({"\"\"\"", "a"}), ElementsAre("open:a\n")); }

TEST(SafeText, ControlCharactersAreShownAndTextIsKept) {
  EXPECT_EQ(safe_text("a\tb\nc"), "a\tb\nc");
  EXPECT_EQ(safe_text("\x1b[31mred\x07\x7f"), "\\x1b[31mred\\x07\\x7f");
  EXPECT_EQ(safe_text("a\r\nb"), "a\nb");
  EXPECT_EQ(safe_text("\xc2\x9b"
                      "31m"),
            "\\x9b31m");
  EXPECT_EQ(safe_text("\xc2\xa0\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
            "\xc2\xa0\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(safe_text(std::string_view("\0", 1)), "\\x00");
}

TEST(Sampling, SettingsAreSetAndTakenBack) {
  ChatSampling s;
  EXPECT_TRUE(set_sampling(s, "temperature", "0.7"));
  EXPECT_TRUE(set_sampling(s, "top_k", "5"));
  EXPECT_DOUBLE_EQ(*s.temperature, 0.7);
  EXPECT_THAT(sampling_text(s), HasSubstr("top_k 5"));
  EXPECT_TRUE(set_sampling(s, "top_k", "default"));
  EXPECT_FALSE(s.top_k);
  EXPECT_FALSE(set_sampling(s, "temperature", "warm"));
  EXPECT_FALSE(set_sampling(s, "max_tokens", "1.5"));
  EXPECT_FALSE(set_sampling(s, "warmth", "1"));
  EXPECT_DOUBLE_EQ(*s.temperature, 0.7);
}

class Pipe {
 public:
  Pipe() { CHECK(pipe2(fds_, O_CLOEXEC) == 0); }
  ~Pipe() {
    close_writer();
    close(fds_[0]);
  }
  int reader() const { return fds_[0]; }
  void write(std::string_view text) { CHECK(::write(fds_[1], text.data(), text.size()) == std::ssize(text)); }
  void close_writer() {
    if (fds_[1] >= 0) close(std::exchange(fds_[1], -1));
  }

 private:
  int fds_[2];
};

TEST(PromptReader, ReadsPromptsHoweverTheirBytesCome) {
  Pipe pipe;
  const Interrupts interrupts;
  PromptReader reader(pipe.reader(), interrupts.wake_fd(), {});
  std::thread writer([&] {
    for (const std::string_view piece : {"on", "e\r\n\n  \ntwo\\\n", "more\nlast"}) {
      pipe.write(piece);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    pipe.close_writer();
  });
  EXPECT_EQ(reader.next().text, "one");
  EXPECT_EQ(reader.next().text, "two\nmore");
  EXPECT_EQ(reader.next().text, "last");
  EXPECT_EQ(reader.next().kind, PromptReader::Kind::kEnd);
  writer.join();
}

TEST(PromptReader, HalfAPromptAtTheEndIsAPrompt) {
  Pipe pipe;
  pipe.write("\"\"\"\na");
  pipe.close_writer();
  const Interrupts interrupts;
  PromptReader reader(pipe.reader(), interrupts.wake_fd(), {});
  EXPECT_EQ(reader.next().text, "a\n");
  EXPECT_EQ(reader.next().kind, PromptReader::Kind::kEnd);
}

TEST(PromptReader, AnInterruptWakesItAndDropsWhatWasOpen) {
  Pipe pipe;
  pipe.write("\"\"\"\nhalf\n");
  Interrupts interrupts;
  PromptReader reader(pipe.reader(), interrupts.wake_fd(), {});
  std::thread other([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    kill(getpid(), SIGINT);
  });
  const auto read = reader.next();
  other.join();
  EXPECT_EQ(read.kind, PromptReader::Kind::kInterrupted);
  EXPECT_TRUE(read.dropped);
  EXPECT_TRUE(interrupts.flag());
  interrupts.clear();
  pipe.write("whole\n");
  EXPECT_EQ(reader.next().text, "whole");
}

// Answers with what it was asked.
class EchoModel final : public ChatModel {
 public:
  Result<ChatAnswer> answer(const OrderedJson& messages, const ChatSampling& sampling,
                            const OnText& on_text) override {
    asked = messages;
    with = sampling;
    if (broken) return fail(ErrorCode::kUnavailable, "gone");
    ChatAnswer out;
    out.text = "echo " + messages.back()["content"].get<std::string>();
    out.stopped = stopped;
    on_text("hm", true);
    on_text(out.text, false);
    out.output_tokens = 2;
    return out;
  }
  std::string name() const override { return "echo"; }

  OrderedJson asked;
  ChatSampling with;
  bool broken = false, stopped = false;
};

class Session : public testing::Test {
 protected:
  ChatSession make(ChatSession::Options options = {}) {
    return ChatSession(model_, std::move(options), [this](std::string_view text) { shown_ += text; });
  }
  EchoModel model_;
  std::string shown_;
};

TEST_F(Session, GoesOnWithTheConversation) {
  auto session = make({.system = "be brief"});
  ASSERT_TRUE(session.take("a"));
  ASSERT_TRUE(session.take("b"));
  EXPECT_EQ(shown_, "echo a\necho b\n");
  EXPECT_EQ(to_text(model_.asked),
            R"([{"role":"system","content":"be brief"},{"role":"user","content":"a"},)"
            R"({"role":"assistant","content":"echo a"},{"role":"user","content":"b"}])");
  ASSERT_TRUE(session.take("/clear"));
  ASSERT_TRUE(session.take("/system"));
  ASSERT_TRUE(session.take("c"));
  EXPECT_EQ(to_text(model_.asked), R"([{"role":"user","content":"c"}])");
}

TEST_F(Session, AFailedQuestionIsNotPartOfTheConversation) {
  auto session = make();
  model_.broken = true;
  EXPECT_FALSE(session.take("a"));
  model_.broken = false;
  ASSERT_TRUE(session.take("b"));
  EXPECT_EQ(model_.asked.size(), 1u);
}

TEST_F(Session, CommandsSetWhatTheNextQuestionUses) {
  auto session = make();
  ASSERT_TRUE(session.take("/set temperature 0.5"));
  ASSERT_TRUE(session.take("/set seed=7"));
  ASSERT_TRUE(session.take("a"));
  EXPECT_DOUBLE_EQ(*model_.with.temperature, 0.5);
  EXPECT_EQ(*model_.with.seed, 7u);
  EXPECT_FALSE(session.take("/set temperature"));
  EXPECT_FALSE(session.take("/nonsense"));
  EXPECT_EQ(session.take("/quit").value(), ChatSession::Next::kQuit);
  ASSERT_TRUE(session.take("/stats"));
  EXPECT_THAT(shown_, HasSubstr("answers        1"));
}

TEST_F(Session, FiguresAndReasoningAreForTerminalsOnly) {
  auto plain = make();
  ASSERT_TRUE(plain.take("a\x1b"));
  EXPECT_EQ(shown_, "echo a\\x1b\n");
  shown_.clear();
  auto terminal = make({.interactive = true, .colour = true});
  ASSERT_TRUE(terminal.take("a"));
  EXPECT_THAT(shown_, HasSubstr("hm"));
  EXPECT_THAT(shown_, HasSubstr("[2 tokens"));
}

TEST_F(Session, AStoppedAnswerIsAnErrorInAPipeOnly) {
  model_.stopped = true;
  EXPECT_EQ(make().take("a").error().code, ErrorCode::kCancelled);
  EXPECT_TRUE(make({.interactive = true}).take("a"));
}

const std::atomic<bool> never{false};

std::unique_ptr<ChatModel> remote(const TestServer& server, const std::atomic<bool>& stop = never) {
  return remote_chat(HttpClient::create(parse_url(server.url()).value(), "", {}, &stop).value(), "m", stop);
}

const OrderedJson kQuestion = OrderedJson::parse(R"([{"role":"user","content":"hi"}])");

TEST(RemoteChat, StreamsTextAndReadsUsage) {
  std::string request;
  TestServer server([&](const std::string& text, TestPeer& peer) {
    request = text;
    peer.write(kStreamHead);
    for (
        const char* data :
        {R"({"choices":[{"delta":{"role":"assistant","content":""}}]})",
         R"({"choices":[{"delta":{"reasoning_content":"so"}}]})",
         R"({"choices":[{"delta":{"content":"a"}}]})",
         R"({"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]})",
         R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}})",
         "[DONE]"}) {
      peer.chunk(fmt::format("data: {}\n\n", data));
    }
    return peer.chunk("");
  });
  std::string text, reasoning;
  ChatSampling sampling;
  sampling.temperature = 0.5;
  const auto answer = remote(server)->answer(kQuestion, sampling, [&](std::string_view piece, bool thinks) {
    (thinks ? reasoning : text) += piece;
  });
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(text, "ab");
  EXPECT_EQ(reasoning, "so");
  EXPECT_EQ(answer->text, "ab");
  EXPECT_EQ(answer->finish_reason, "stop");
  EXPECT_EQ(answer->prompt_tokens, 9);
  EXPECT_EQ(answer->cached_tokens, 4);
  EXPECT_EQ(answer->output_tokens, 2);
  EXPECT_GT(answer->ttft, 0);
  EXPECT_THAT(request, HasSubstr(R"("temperature":0.5)"));
  EXPECT_THAT(request, testing::Not(HasSubstr("top_p")));
}

TEST(RemoteChat, WhateverAServerSendsIsAnAnswerOrAnError) {
  for (const char* data : {R"({"error":{"message":"died"}})", R"({"error":"died"})", "{", "\xff"}) {
    TestServer server([&](const std::string&, TestPeer& peer) {
      peer.write(kStreamHead);
      peer.chunk(fmt::format("data: {}\n\n", data));
      return peer.chunk("");
    });
    EXPECT_FALSE(remote(server)->answer(kQuestion, {}, [](std::string_view, bool) {})) << data;
  }
  for (const char* data :
       {"[]", "1", "null", R"({"choices":3})", R"({"choices":[[]]})", R"({"choices":[{"delta":[]}]})",
        R"({"choices":[{"delta":{"content":5}}],"usage":[]})", R"({"usage":{"prompt_tokens":-1}})"}) {
    TestServer server([&](const std::string&, TestPeer& peer) {
      peer.write(kStreamHead);
      peer.chunk(fmt::format("data: {}\n\ndata: [DONE]\n\n", data));
      return peer.chunk("");
    });
    EXPECT_TRUE(remote(server)->answer(kQuestion, {}, [](std::string_view, bool) {})) << data;
  }
}

TEST(RemoteChat, AStreamThatJustEndsIsAnError) {
  TestServer server([&](const std::string&, TestPeer& peer) {
    peer.write(kStreamHead);
    peer.chunk("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
    return peer.chunk("");
  });
  EXPECT_FALSE(remote(server)->answer(kQuestion, {}, [](std::string_view, bool) {}));
}

TEST(RemoteChat, StopsWithTheTextThatHadCome) {
  std::atomic<bool> stop{false};
  TestServer server([&](const std::string&, TestPeer& peer) {
    peer.write(kStreamHead);
    peer.chunk("data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n");
    peer.wait_for_end();
    return false;
  });
  const auto answer =
      remote(server, stop)->answer(kQuestion, {}, [&](std::string_view, bool) { stop = true; });
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->stopped);
  EXPECT_EQ(answer->text, "half");
}

// Says "ok" and ends, or babbles until it is cancelled. A thread plays the engine's.
class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(bool babble) : babble_(babble) {
    info_.name = "fake";
    info_.max_model_len = 32;
    info_.eos_ids = {server::kFakeEos};
  }
  ~FakeEngine() override {
    cancelled_ = true;
    if (thread_.joinable()) thread_.join();
  }
  Result<RequestId> submit(Request request, EventSink sink) override {
    request_ = request;
    if (thread_.joinable()) thread_.join();
    thread_ = std::thread([this, sink = std::move(sink), size = static_cast<int>(request.prompt.size())] {
      Event event;
      event.prompt_tokens = size;
      for (const std::string_view text = babble_ ? "babble" : "ok"; const char c : text) {
        event.tokens.push_back({.id = c, .chosen = {}, .top_logprobs = {}});
      }
      sink(Event(event));
      while (babble_ && !cancelled_) std::this_thread::yield();
      event.tokens = {{.id = server::kFakeEos, .chosen = {}, .top_logprobs = {}}};
      if (babble_) event.tokens.clear();
      event.finish = babble_ ? FinishReason::kCancelled : FinishReason::kStop;
      sink(std::move(event));
    });
    return 1;
  }
  void cancel(RequestId) override { cancelled_ = true; }
  const ModelInfo& info() const override { return info_; }
  EngineStats stats() const override { return {}; }
  std::chrono::seconds retry_after() const override { return std::chrono::seconds(1); }
  void clear_prefix_cache() override {}

  Request request_;

 private:
  bool babble_;
  ModelInfo info_;
  std::atomic<bool> cancelled_{false};
  std::thread thread_;
};

TEST(LocalChat, AnswersWithoutTheEndToken) {
  FakeEngine engine(false);
  const server::FakeText text;
  ChatSampling sampling;
  sampling.top_k = 3;
  std::string shown;
  const auto answer =
      local_chat(engine, text, never)->answer(kQuestion, sampling, [&](std::string_view piece, bool) {
        shown += piece;
      });
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->text, "ok");
  EXPECT_EQ(shown, "ok");
  EXPECT_EQ(answer->finish_reason, "stop");
  EXPECT_EQ(answer->output_tokens, 3);
  EXPECT_EQ(answer->prompt_tokens, 4);
  EXPECT_EQ(engine.request_.sampling.top_k, 3);
  EXPECT_EQ(engine.request_.sampling.max_tokens, 28);
}

TEST(LocalChat, StopsWithTheTextThatHadCome) {
  FakeEngine engine(true);
  const server::FakeText text;
  std::atomic<bool> stop{false};
  const auto answer =
      local_chat(engine, text, stop)->answer(kQuestion, {}, [&](std::string_view, bool) { stop = true; });
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->stopped);
  EXPECT_EQ(answer->text, "babble");
}

TEST(LocalChat, AConversationThatIsTooLongSaysWhatToDo) {
  FakeEngine engine(false);
  const server::FakeText text;
  const auto messages = OrderedJson::array({{{"role", "user"}, {"content", std::string(40, 'x')}}});
  const auto answer = local_chat(engine, text, never)->answer(messages, {}, [](std::string_view, bool) {});
  ASSERT_FALSE(answer);
  EXPECT_THAT(answer.error().message, HasSubstr("/clear"));
}

}  // namespace
}  // namespace trireme::cli
