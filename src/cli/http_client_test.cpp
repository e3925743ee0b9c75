#include "cli/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/http_test_server.h"

namespace trireme::cli {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

HttpClient client_of(const TestServer& server, HttpTimeouts timeouts = {}, const std::string& key = "") {
  auto client = HttpClient::create(parse_url(server.url()).value(), key, timeouts);
  CHECK(client.has_value());
  return std::move(*client);
}

TEST(Url, PartsOfAnAddress) {
  const auto plain = parse_url("http://127.0.0.1:8000").value();
  EXPECT_EQ(plain.host, "127.0.0.1");
  EXPECT_EQ(plain.port, 8000);
  EXPECT_EQ(plain.prefix, "");
  EXPECT_EQ(plain.authority(), "127.0.0.1:8000");

  const auto v6 = parse_url("http://[::1]:9000/v2/llm/").value();
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(v6.port, 9000);
  EXPECT_EQ(v6.prefix, "/v2/llm");
  EXPECT_EQ(v6.authority(), "[::1]:9000");

  EXPECT_EQ(parse_url("localhost").value().port, 80);
  EXPECT_EQ(parse_url("localhost:1/v1").value().prefix, "");
  EXPECT_EQ(parse_url("http://a/b/v1/").value().prefix, "/b");
  EXPECT_EQ(parse_url("[::1]").value().port, 80);
}

TEST(Url, WhatIsNoAddressIsRefused) {
  for (const char* bad : {"", "http://", "http://:80", "ftp://a", "http://a:0", "http://a:65536",
                          "http://a:x", "http://a:", "http://[::1", "http://[zz]", "http://[::1]x", "::1",
                          "http://u@a", "http://a?b", "http://a/b#c", "http://a b", "http://a\r\nX: y"}) {
    EXPECT_FALSE(parse_url(bad)) << bad;
  }
  const auto https = parse_url("https://example.org");
  ASSERT_FALSE(https);
  EXPECT_EQ(https.error().code, ErrorCode::kUnsupported);
}

TEST(HttpClient, KeepsOneConnectionForManyRequests) {
  std::string seen;
  TestServer server([&](const std::string& request, TestPeer& peer) {
    seen = request;
    return peer.write(plain_answer(200, R"({"data":[{"id":"demo"}]})"));
  });
  auto client = client_of(server, {}, "secret");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(first_model(client).value(), "demo");
  EXPECT_EQ(server.connections(), 1);
  EXPECT_THAT(seen, StartsWith("GET /v1/models HTTP/1.1\r\n"));
  EXPECT_THAT(seen, HasSubstr("Authorization: Bearer secret\r\n"));
  EXPECT_EQ(client.post("/x", "{}").value(), R"({"data":[{"id":"demo"}]})");
  EXPECT_THAT(seen, HasSubstr("Content-Length: 2\r\n"));
}

TEST(HttpClient, OpensAConnectionAgainThatTheServerClosedWhileIdle) {
  TestServer server([](const std::string&, TestPeer& peer) {
    peer.write(plain_answer(200, "{}"));
    return false;
  });
  auto client = client_of(server);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client.post("/x", "{}").value(), "{}");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(server.connections(), 3);
}

TEST(HttpClient, AStreamSplitAnywhereGivesItsEvents) {
  const std::string body = "data: {\"a\":1}\n\n: beat\n\ndata: two\r\n\r\ndata: [DONE]\n\n";
  for (const std::size_t step : {1, 2, 3, 7, 100}) {
    TestServer server([&](const std::string&, TestPeer& peer) {
      std::string wire = kStreamHead;
      for (std::size_t i = 0; i < body.size(); i += step) {
        const auto piece = body.substr(i, step);
        wire += fmt::format("{:X};ext=1\r\n{}\r\n", piece.size(), piece);
      }
      wire += "0\r\nTrailer: x\r\n\r\n";
      for (std::size_t i = 0; i < wire.size(); i += step) peer.write(wire.substr(i, step));
      return true;
    });
    auto client = client_of(server);
    for (int again = 0; again < 2; ++again) {
      std::vector<std::string> events;
      ASSERT_TRUE(client.post_events("/s", "{}", [&](std::string_view data) {
        events.emplace_back(data);
        return true;
      }));
      EXPECT_EQ(events, (std::vector<std::string>{R"({"a":1})", "two", "[DONE]"}));
    }
    EXPECT_EQ(server.connections(), 1);
  }
}

TEST(HttpClient, AStreamWithoutLengthEndsWithTheConnection) {
  TestServer server([](const std::string&, TestPeer& peer) {
    peer.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n");
    return false;
  });
  auto client = client_of(server);
  int events = 0;
  EXPECT_TRUE(client.post_events("/s", "{}", [&](std::string_view) { return ++events; }));
  EXPECT_EQ(events, 1);
}

TEST(HttpClient, StopsReadingWhenToldEnough) {
  TestServer server([](const std::string&, TestPeer& peer) {
    peer.write(kStreamHead);
    peer.chunk("data: 1\n\ndata: 2\n\n");
    peer.wait_for_end();
    return false;
  });
  auto client = client_of(server);
  int events = 0;
  EXPECT_TRUE(client.post_events("/s", "{}", [&](std::string_view) { return ++events < 1; }));
  EXPECT_EQ(events, 1);
}

TEST(HttpClient, AConnectionCutInTheMiddleIsAnError) {
  for (const std::string& cut :
       {std::string(), std::string("HTTP/1.1 20"), kStreamHead, kStreamHead + "9\r\ndata: 1\n\n\r\n",
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")}) {
    TestServer server([&](const std::string&, TestPeer& peer) {
      peer.write(cut);
      return false;
    });
    auto client = client_of(server);
    const auto status = client.post_events("/s", "{}", [](std::string_view) { return true; });
    ASSERT_FALSE(status) << cut;
    EXPECT_EQ(status.error().code, ErrorCode::kUnavailable) << cut;
  }
}

TEST(HttpClient, WhatIsNotHttpIsSaidToBe) {
  TestServer server([](const std::string&, TestPeer& peer) {
    peer.write("SSH-2.0-OpenSSH_9.2\r\n\r\n");
    peer.wait_for_end();
    return false;
  });
  const auto status = client_of(server).get("/x");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kDataLoss);
}

TEST(HttpClient, AnErrorCarriesTheServersWords) {
  TestServer server([](const std::string& request, TestPeer& peer) {
    if (request.starts_with("POST /full")) {
      return peer.write(plain_answer(429, R"({"error":{"message":"queue full"}})", "Retry-After: 3\r\n"));
    }
    if (request.starts_with("POST /bad"))
      return peer.write(plain_answer(400, R"({"error":"no \u001b[31m"})"));
    if (request.starts_with("POST /key")) return peer.write(plain_answer(401, "{}"));
    return peer.write(plain_answer(500, "<html>\x1b"));
  });
  auto client = client_of(server);
  const auto never = [](std::string_view) { return true; };
  const auto full = client.post_events("/full", "{}", never);
  EXPECT_EQ(full.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(full.error().message, HasSubstr("429: queue full (try again in 3 s)"));
  const auto bad = client.post("/bad", "{}");
  EXPECT_EQ(bad.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(bad.error().message.find('\x1b'), std::string::npos);
  EXPECT_THAT(client.post("/key", "{}").error().message, HasSubstr("--api-key"));
  const auto broken = client.post("/x", "{}");
  EXPECT_EQ(broken.error().code, ErrorCode::kInternal);
  EXPECT_EQ(broken.error().message.find('\x1b'), std::string::npos);
}

TEST(HttpClient, ASilentServerRunsIntoATimeout) {
  TestServer server([](const std::string&, TestPeer& peer) {
    peer.wait_for_end();
    return false;
  });
  auto client = client_of(server, {.idle = std::chrono::milliseconds(60)});
  const auto status = client.get("/x");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kDeadlineExceeded);
}

TEST(HttpClient, AServerThatTricklesRunsIntoTheTotalTimeout) {
  TestServer server([](const std::string&, TestPeer& peer) {
    peer.write(kStreamHead);
    while (peer.chunk("data: x\n\n")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return false;
  });
  auto client = client_of(server, {.total = std::chrono::milliseconds(100)});
  const auto status = client.post_events("/x", "{}", [](std::string_view) { return true; });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kDeadlineExceeded);
}

TEST(HttpClient, AnotherThreadMayStopIt) {
  TestServer server([](const std::string&, TestPeer& peer) {
    peer.wait_for_end();
    return false;
  });
  std::atomic<bool> stop{false};
  auto client = HttpClient::create(parse_url(server.url()).value(), "", {}, &stop).value();
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    stop = true;
  });
  const auto status = client.get("/x");
  other.join();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
}

TEST(HttpClient, ARefusedConnectionSaysWhere) {
  std::string url;
  {
    url = TestServer([](const std::string&, TestPeer&) { return false; }).url();
  }
  const auto status = HttpClient::create(parse_url(url).value(), "")->get("/x");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().message, HasSubstr("is a server running there?"));
}

TEST(HttpClient, AKeyThatCannotTravelIsRefused) {
  EXPECT_FALSE(HttpClient::create(parse_url("http://127.0.0.1:1").value(), "a\r\nX: y"));
}

}  // namespace
}  // namespace trireme::cli
