// Streams among many: clients that vanish, read slowly or come in crowds, and the server's own end.
#include <sys/epoll.h>

#include <csignal>
#include <future>
#include <random>

#include "server/testing/fixture.h"

namespace trireme::server {
namespace {

std::string stream_request(std::string_view prompt, int tokens) {
  return post_text("/v1/completions",
                   fmt::format(R"({{"prompt":"{}","max_tokens":{},"stream":true}})", prompt, tokens));
}

std::string text_of(const Answer& a) {
  std::string text;
  for (const auto& event : a.events()) {
    if (event == "[DONE]") continue;
    const auto j = Json::parse(event, nullptr, false);
    if (j.contains("choices") && !j["choices"].empty()) text += j["choices"][0]["text"].get<std::string>();
  }
  return text;
}

TEST(Streams, ClientsThatVanishAtAnyMomentLeaveNothingBehind) {
  Serving s;
  s.engine.step_us = 500;
  // A loop opens its own descriptors with its first connection.
  for (int i = 0; i < 2; ++i) ASSERT_EQ(s.complete({}).status, 200);
  ASSERT_TRUE(eventually([&] { return s.server->idle(); }));
  const int descriptors = open_descriptors();
  std::mt19937 random(1);
  const auto below = [&](int n) { return std::uniform_int_distribution<int>(0, n - 1)(random); };
  for (int i = 0; i < 200; ++i) {
    auto c = s.client();
    const auto bytes = below(2)
                           ? stream_request("gone", 3000)
                           : post_text("/v1/completions", R"({"prompt":"gone","max_tokens":3000,"n":3})");
    const bool whole = below(4) != 0;
    c.send(std::string_view(bytes).substr(
        0, whole ? bytes.size() : static_cast<std::size_t>(below(static_cast<int>(bytes.size())))));
    if (whole && below(2)) std::this_thread::sleep_for(std::chrono::microseconds(below(5000)));
    if (below(2))
      c.reset();
    else
      c.close();
  }
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; })) << s.engine.live() << " live";
  EXPECT_TRUE(eventually([&] { return open_descriptors() <= descriptors; }))
      << open_descriptors() << " of " << descriptors;
  EXPECT_EQ(text_of(s.ask(stream_request("hi", 50))), completion_text(50));
}

TEST(Streams, ADisconnectIsSeenWhileNothingIsSent) {
  Serving s;
  s.engine.hung = true;
  for (const bool stream : {true, false}) {
    auto c = s.client();
    c.send(post_text("/v1/completions", fmt::format(R"({{"prompt":"x","stream":{}}})", stream)));
    ASSERT_TRUE(eventually([&] { return s.engine.live() == 1; }));
    c.close();
    EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }, 1000)) << stream;
  }
}

TEST(Streams, ADisconnectWhileTheTextIsBeingPreparedNeverReachesTheEngine) {
  const Serving s({}, 1 << 26);
  const std::string long_text(8u << 20, 'x');
  for (int i = 0; i < 3; ++i) {
    auto c = s.client();
    c.send(stream_request(long_text, 10));
    c.close();
  }
  EXPECT_EQ(s.get("/health").status, 200);
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }));
}

TEST(Streams, FiveHundredAtOnceAllGetEveryTokenInOrder) {
  Serving s;
  s.engine.step_us = 5000;
  constexpr int kStreams = 500;
  constexpr int kTokens = 100;
  std::vector<Client> clients;
  std::vector<std::string> received(kStreams);
  const int poller = epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(s.client());
    ASSERT_TRUE(clients.back().connected());
    clients.back().send(stream_request(std::to_string(i), kTokens));
    epoll_event event{.events = EPOLLIN, .data = {.u32 = static_cast<std::uint32_t>(i)}};
    epoll_ctl(poller, EPOLL_CTL_ADD, clients.back().fd(), &event);
  }
  int ended = 0;
  std::vector<char> bytes(1 << 16);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (ended < kStreams && std::chrono::steady_clock::now() < limit) {
    epoll_event events[64];
    const int n = epoll_wait(poller, events, 64, 100);
    for (int e = 0; e < n; ++e) {
      const auto i = events[e].data.u32;
      const auto got = recv(clients[i].fd(), bytes.data(), bytes.size(), 0);
      ASSERT_GT(got, 0);
      received[i].append(bytes.data(), static_cast<std::size_t>(got));
      ended += received[i].ends_with("0\r\n\r\n");
    }
  }
  close(poller);
  ASSERT_EQ(ended, kStreams);
  for (int i = 0; i < kStreams; ++i) {
    Answer a;
    a.body = received[static_cast<std::size_t>(i)];
    EXPECT_EQ(text_of(a), fake_continuation(byte_tokens(std::to_string(i)), kTokens)) << i;
  }
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }));
}

TEST(Streams, ASlowReaderIsCutOffAndOthersDoNotNotice) {
  ServerOptions options;
  options.slow_reader_bytes = 64 << 10;
  options.slow_reader_timeout = milliseconds(300);
  Serving s(options, 1 << 20);
  s.engine.step_us = 20;
  Client slow(s.port(), 4096);
  // Log-probabilities make much text of a token.
  slow.send(
      post_text("/v1/completions", R"({"prompt":"x","max_tokens":1000000,"stream":true,"logprobs":20})"));
  ASSERT_TRUE(eventually([&] { return s.engine.live() == 1; }));
  auto other = s.client();
  other.send(stream_request("hi", 200));
  EXPECT_EQ(text_of(other.receive()), completion_text(200));
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }, 20000))
      << "the engine works on for a client that does not read";
  EXPECT_NE(s.get("/metrics").body.find("trireme:slow_readers_total{model_name=\"demo\",engine=\"0\"} 1\n"),
            std::string::npos);
}

TEST(Streams, AReaderThatStopsAtTheEndDoesNotHoldItsConnection) {
  ServerOptions options;
  options.slow_reader_timeout = milliseconds(200);
  Serving s(options, 1 << 20);
  s.engine.step_us = 1;
  // A loop opens its own descriptors with its first connection.
  for (int i = 0; i < 2; ++i) ASSERT_EQ(s.complete({}).status, 200);
  ASSERT_TRUE(eventually([&] { return s.server->idle(); }));
  const int descriptors = open_descriptors();
  Client stuck(s.port(), 4096);
  stuck.send(post_text("/v1/completions", R"({"prompt":"x","max_tokens":3000,"logprobs":20})"));
  ASSERT_TRUE(eventually([&] { return s.engine.submitted == 3 && s.engine.live() == 0; }, 30000));
  EXPECT_TRUE(eventually([&] { return open_descriptors() <= descriptors + 1; }, 10000))
      << "the server's end stays open";
}

TEST(Streams, SilenceIsFilledWithComments) {
  ServerOptions options;
  options.sse_heartbeat = milliseconds(50);
  Serving s(options);
  s.engine.hung = true;
  auto c = s.client();
  c.send(stream_request("hi", 5));
  EXPECT_TRUE(c.read_until(": still working\n\n"));
  s.engine.hung = false;
  EXPECT_TRUE(c.read_until("[DONE]"));
}

TEST(Ready, FollowsARealToken) {
  ServerOptions options;
  options.ready_canary_timeout = milliseconds(100);
  Serving s(options);
  EXPECT_EQ(s.get("/ready").status, 200);
  EXPECT_EQ(s.engine.submitted, 0) << "a token was made lately, so none is asked for";
  s.engine.token_age = -1.0;
  EXPECT_EQ(s.get("/ready").status, 200);
  EXPECT_EQ(s.engine.submitted, 1);
  s.engine.token_age = 1000.0;
  s.engine.hung = true;
  const auto a = s.get("/ready");
  EXPECT_EQ(a.status, 503);
  EXPECT_EQ(a.json()["error"]["code"], "not_ready");
  EXPECT_EQ(s.get("/health").status, 200) << "health is of the process";
  s.engine.hung = false;
  EXPECT_TRUE(eventually([&] { return s.get("/ready").status == 200; }));
  s.engine.fail_after = 0;
  EXPECT_EQ(s.get("/ready").status, 503);
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }));
}

TEST(Drain, RunningStreamsEndWellAndNothingNewBegins) {
  Serving s;
  s.engine.step_us = 3000;
  auto running = s.client();
  running.send(stream_request("hi", 100));
  ASSERT_TRUE(running.read_until("data: "));
  auto idle = s.client();
  idle.send(get_text("/health"));
  EXPECT_EQ(idle.receive().status, 200);
  s.server->drain();
  EXPECT_TRUE(idle.closed_within(1000));
  EXPECT_TRUE(eventually([&] { return !s.client().connected(); })) << "new connections are refused";
  EXPECT_EQ(text_of(running.receive()), completion_text(100));
  EXPECT_TRUE(running.closed_within(1000));
  EXPECT_TRUE(eventually([&] { return s.server->idle(); }));
}

TEST(Drain, WhatRunsTooLongGetsAnErrorEvent) {
  Serving s;
  s.engine.step_us = 5000;
  auto c = s.client();
  c.send(stream_request("hi", 4000));
  ASSERT_TRUE(c.read_until("data: "));
  s.server->drain();
  s.server->cancel_all();
  const auto events = c.receive().events();
  ASSERT_GE(events.size(), 2u);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(Json::parse(events[events.size() - 2])["error"]["code"], "shutting_down");
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }));
}

TEST(Drain, StopEndsEverythingAtOnceInEveryPhase) {
  for (int i = 0; i < 10; ++i) {
    auto s = std::make_unique<Serving>();
    s->engine.step_us = 1000;
    std::vector<Client> clients;
    for (int k = 0; k < 10; ++k) {
      clients.push_back(s->client());
      if (k % 3) clients.back().send(k % 2 ? stream_request("x", 4000) : get_text("/health"));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200 * i));
    const auto begin = std::chrono::steady_clock::now();
    s->server->stop();
    EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 2);
    EXPECT_TRUE(eventually([&] { return s->engine.live() == 0; }));
  }
}

TEST(Drain, RunEndsAfterASignalWhenTheStreamsHaveEnded) {
  FakeEngine engine;
  const FakeText text;
  engine.step_us = 2000;
  ServerOptions options;
  options.port = 0;
  options.log_requests = false;
  std::promise<int> port;
  Status status;
  std::thread server([&] { status = run(options, engine, text, [&](int p) { port.set_value(p); }); });
  Client c(port.get_future().get());
  c.send(stream_request("hi", 100));
  ASSERT_TRUE(c.read_until("data: "));
  kill(getpid(), SIGTERM);
  EXPECT_EQ(text_of(c.receive()), completion_text(100));
  server.join();
  EXPECT_TRUE(status);
}

TEST(Drain, ASecondSignalEndsAtOnce) {
  FakeEngine engine;
  const FakeText text;
  engine.hung = true;
  ServerOptions options;
  options.port = 0;
  options.log_requests = false;
  std::promise<int> port;
  std::thread server([&] { (void)run(options, engine, text, [&](int p) { port.set_value(p); }); });
  Client c(port.get_future().get());
  c.send(stream_request("hi", 100));
  ASSERT_TRUE(eventually([&] { return engine.live() == 1; }));
  kill(getpid(), SIGTERM);
  std::this_thread::sleep_for(milliseconds(100));
  const auto begin = std::chrono::steady_clock::now();
  kill(getpid(), SIGTERM);
  server.join();
  EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 2);
}

TEST(Server, SaysWhyItCannotStart) {
  FakeEngine engine;
  const FakeText text;
  ServerOptions options;
  options.port = 0;
  const auto first = Server::start(options, engine, text);
  ASSERT_TRUE(first);
  options.port = (*first)->port();
  const auto second = Server::start(options, engine, text);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find(std::to_string(options.port)), std::string::npos);
  options.host = "nowhere.example";
  EXPECT_EQ(Server::start(options, engine, text).error().code, ErrorCode::kInvalidArgument);
  options = {};
  options.api_keys = {""};
  EXPECT_FALSE(Server::start(options, engine, text));
}

}  // namespace
}  // namespace trireme::server
