// The HTTP side: limits, keys, timeouts and everything that a socket can send.
#include <random>

#include "server/auth.h"
#include "server/testing/fixture.h"

namespace trireme::server {
namespace {

const std::string kAsk = R"({"model":"demo","prompt":"hi","max_tokens":4})";

ServerOptions with_key() {
  ServerOptions options;
  options.api_keys = {"sesame", "second-key"};
  return options;
}

TEST(Http, HealthVersionPageAndHeadAreAnswered) {
  const Serving s;
  EXPECT_EQ(s.get("/health").status, 200);
  EXPECT_TRUE(s.get("/version").json()["version"].is_string());
  const auto page = s.get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_TRUE(page.header("Content-Type").starts_with("text/html"));
  EXPECT_NE(page.header("Content-Security-Policy").find("default-src 'none'"), std::string::npos);
  for (const auto* file : {"/chat.js", "/chat.css"}) EXPECT_EQ(s.get(file).status, 200) << file;
  auto c = s.client();
  c.send("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n" + get_text("/version"));
  EXPECT_EQ(c.receive(true).header("Content-Length"), "15");
  EXPECT_TRUE(c.receive().json().contains("version")) << "a HEAD answer has no body";
}

TEST(Http, UnknownPathsAre404AndWrongMethods405) {
  const Serving s;
  for (const auto* path : {"/nothing", "//", "/v1", "/v1/", "/v1/models/", "/v1/chat/completions/",
                           "/V1/models", "/%76ersion", "/../etc/passwd", "/chat.js/", "*"}) {
    EXPECT_EQ(s.get(path).status, 404) << path;
  }
  const auto a = s.get("/v1/chat/completions");
  EXPECT_EQ(a.status, 405);
  EXPECT_EQ(a.header("Allow"), "POST");
  EXPECT_EQ(s.post("/health", "{}").status, 405);
  EXPECT_EQ(s.ask("OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\n\r\n").status, 405);
}

TEST(Http, MetricsCanBeSwitchedOff) {
  ServerOptions options;
  options.enable_metrics = false;
  EXPECT_EQ(Serving(options).get("/metrics").status, 404);
}

TEST(Http, RequestIdsAreTakenWhenSaneAndMadeOtherwise) {
  const Serving s;
  EXPECT_EQ(s.get("/health", "X-Request-Id: abc-1.2:3\r\n").header("X-Request-Id"), "abc-1.2:3");
  const auto made = s.get("/health", "X-Request-Id: a b\x1b[31m\r\n").header("X-Request-Id");
  EXPECT_EQ(made.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_GE(made.size(), 16u);
  EXPECT_NE(made, s.get("/health").header("X-Request-Id"));
}

TEST(Http, CorsIsThereOnlyWhenAskedFor) {
  EXPECT_EQ(Serving().get("/health").header("Access-Control-Allow-Origin"), "");
  auto options = with_key();
  options.allow_origin = "https://example.org";
  const Serving s(options);
  const auto a =
      s.ask("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: https://example.org\r\n\r\n");
  EXPECT_EQ(a.status, 204);
  EXPECT_EQ(a.header("Access-Control-Allow-Origin"), "https://example.org");
  EXPECT_NE(a.header("Access-Control-Allow-Headers").find("authorization"), std::string::npos);
}

TEST(Http, AForeignPageCannotMakeABrowserPost) {
  const Serving s;
  EXPECT_EQ(s.post("/v1/completions", kAsk, "Sec-Fetch-Site: cross-site\r\n").status, 403);
  EXPECT_EQ(s.post("/v1/completions", kAsk, "Sec-Fetch-Site: same-origin\r\n").status, 200);
}

TEST(Auth, EveryRouteButHealthAsksForTheKey) {
  const Serving s(with_key());
  EXPECT_EQ(s.get("/health").status, 200);
  for (const auto* path : {"/",
                           "/chat.js",
                           "/chat.css",
                           "/ready",
                           "/metrics",
                           "/version",
                           "/v1/models",
                           "/v1/models/demo",
                           "/nothing",
                           "//v1/models",
                           "/V1/models",
                           "/v1/models/",
                           "/%76ersion",
                           "/v1/../v1/models",
                           "/./version",
                           "/health/",
                           "/health/../version",
                           "/health%2f..%2fversion",
                           "/Health",
                           "//health",
                           "/health;a=b",
                           "/health//",
                           "http://x/version",
                           "http://x/health/../version",
                           "/v1/chat/completions",
                           "/health\\..\\version"}) {
    for (const auto* method : {"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "get"}) {
      auto c = s.client();
      c.send(fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", method, path));
      const auto a = c.receive(std::string_view(method) == "HEAD");
      EXPECT_EQ(a.status, 401) << method << " " << path;
    }
  }
  EXPECT_EQ(s.post("/v1/completions", kAsk).status, 401);
  EXPECT_EQ(s.post("/v1/completions", kAsk).json()["error"]["code"], "invalid_api_key");
  EXPECT_EQ(s.engine.submitted, 0);
}

TEST(Auth, OnlyAWholeKeyOpens) {
  const Serving s(with_key());
  for (const auto* value : {"Bearer sesame", "bearer sesame", "Bearer  sesame", "Bearer second-key"}) {
    EXPECT_EQ(s.get("/v1/models", fmt::format("Authorization: {}\r\n", value)).status, 200) << value;
  }
  for (const auto* value : {"Bearer", "Bearer ", "Bearer sesam", "Bearer sesamesesame", "Bearer sesame2",
                            "Bearer Sesame", "sesame", "Token sesame", "Bearer sesame second-key",
                            "Bearer sesame,second-key", "Basic c2VzYW1l", "Basic eDpzZXNhbWU="}) {
    EXPECT_EQ(s.get("/v1/models", fmt::format("Authorization: {}\r\n", value)).status, 401) << value;
  }
  EXPECT_EQ(s.get("/v1/models", "Authorization: Bearer x\r\nAuthorization: Bearer sesame\r\n").status, 400);
  EXPECT_EQ(s.get("/v1/models?key=sesame").status, 401);
}

TEST(Auth, ABrowsersSignInOpensThePageAndWhatThePageAsksFor) {
  const Serving s(with_key());
  const std::string basic = "Authorization: Basic eDpzZXNhbWU=\r\n";  // x:sesame
  EXPECT_TRUE(s.get("/").header("WWW-Authenticate").starts_with("Basic"));
  EXPECT_EQ(s.get("/", basic).status, 200);
  EXPECT_EQ(s.get("/v1/models", basic + "Sec-Fetch-Site: same-origin\r\n").status, 200);
  EXPECT_EQ(s.get("/v1/models", basic + "Sec-Fetch-Site: cross-site\r\n").status, 401);
}

TEST(Auth, AKeyIsATenant) {
  const Serving s(with_key());
  ASSERT_EQ(s.post("/v1/completions", kAsk, "Authorization: Bearer second-key\r\n").status, 200);
  EXPECT_EQ(s.engine.request_seen().tenant, "key-1");
}

TEST(Auth, EqualityIsOfAllBytes) {
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  for (const auto* other : {"", "a", "ab", "abd", "abcabc", "abcd", "xbc"})
    EXPECT_FALSE(equal_in_constant_time(other, "abc")) << other;
}

TEST(Limits, ABodyThatIsTooLargeIsRefusedBeforeItIsRead) {
  ServerOptions options;
  options.max_body_bytes = 10000;
  const Serving s(options);
  auto c = s.client();
  c.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n{");
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(c.receive().status, 413);
  EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 0.1);

  auto chunked = s.client();
  chunked.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 11; ++i) chunked.send("3e8\r\n" + std::string(1000, ' ') + "\r\n");
  const auto a = chunked.receive();
  EXPECT_EQ(a.status, 413);
  EXPECT_EQ(a.json()["error"]["code"], "body_too_large");
  EXPECT_EQ(s.post("/v1/completions", kAsk).status, 200);
}

TEST(Limits, AClientThatGoesOnSendingATooLargeBodyStillReadsTheAnswer) {
  const Serving s;
  auto c = s.client();
  c.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 40000000\r\n\r\n");
  const std::string megabyte(1 << 20, ' ');
  for (int i = 0; i < 30 && c.send(megabyte); ++i) {
  }
  EXPECT_EQ(c.receive().status, 413);
}

TEST(Limits, LargeBodiesShareOneBudgetAndSmallOnesAlwaysPass) {
  ServerOptions options;
  options.max_body_bytes = 2 << 20;
  options.max_bodies_bytes = 2 << 20;
  const Serving s(options);
  const std::string large = std::string(900000, ' ') + kAsk;
  const std::string endless = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" +
                              std::string(1900000, ' ');
  auto holder = s.client();
  // Whoever comes second is refused, so that the holder may have to try again.
  ASSERT_TRUE(eventually([&] {
    Client next(s.port());
    next.send(endless);
    std::swap(holder, next);
    std::this_thread::sleep_for(milliseconds(50));
    return s.post("/v1/completions", large).status == 503;
  }));
  EXPECT_EQ(s.post("/v1/completions", kAsk).status, 200);
  holder.close();
  EXPECT_TRUE(eventually([&] { return s.post("/v1/completions", large).status == 200; }));
}

TEST(Limits, HeadersAndRequestLinesThatAreTooLargeAre431) {
  const Serving s;
  EXPECT_EQ(s.get("/health", "X: " + std::string(40000, 'a') + "\r\n").status, 431);
  EXPECT_EQ(s.get("/" + std::string(40000, 'a')).status, 431);
  std::string many;
  for (int i = 0; i < 10000; ++i) many += fmt::format("X-{}: a\r\n", i);
  EXPECT_EQ(s.get("/health", many).status, 431);
  EXPECT_EQ(s.get("/health", "X: " + std::string(20000, 'a') + "\r\n").status, 200);
}

TEST(Limits, BodiesComeInEveryLegalWay) {
  const Serving s;
  EXPECT_EQ(
      s.ask("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2d;ext=1\r\n" +
            kAsk + "\r\n0\r\nTrailer: x\r\n\r\n")
          .status,
      200);
  auto c = s.client();
  c.send(fmt::format(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
      kAsk.size()));
  ASSERT_TRUE(c.read_until("100 Continue\r\n\r\n"));
  c.send(kAsk);
  EXPECT_EQ(c.receive().status, 200);
  auto slow = s.client();
  for (const char byte : post_text("/v1/completions", kAsk)) slow.send(std::string(1, byte));
  EXPECT_EQ(slow.receive().status, 200);
}

TEST(Limits, AmbiguousOrUnreadableRequestsAreRefused) {
  const Serving s;
  const std::string start = "POST /v1/completions HTTP/1.1\r\n";
  const std::string chunk = "2d\r\n" + kAsk + "\r\n0\r\n\r\n";
  const std::vector<std::pair<std::string, int>> table = {
      {start + "Host: x\r\nContent-Length: 45\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, 400},
      {start + "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 45\r\n\r\n" + chunk, 400},
      {start + "Host: x\r\nContent-Length: 45\r\nContent-Length: 44\r\n\r\n" + kAsk, 400},
      {start + "Host: x\r\nContent-Length: -1\r\n\r\n" + kAsk, 400},
      {start + "Host: x\r\nContent-Length: 45x\r\n\r\n" + kAsk, 400},
      {start + "Host: x\r\nContent-Length: 99999999999999999999999\r\n\r\n" + kAsk, 400},
      {start + "Host: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunk, 400},
      {start + "Host: x\r\nTransfer-Encoding: xchunked\r\n\r\n" + chunk, 400},
      {start + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + kAsk, 400},
      {start + "Host: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + kAsk, 400},
      {start + "Content-Length: 45\r\n\r\n" + kAsk, 400},
      {start + "Host: x\r\nHost: y\r\nContent-Length: 45\r\n\r\n" + kAsk, 400},
      {start + "Host: x\r\nContent-Encoding: gzip\r\nContent-Length: 45\r\n\r\n" + kAsk, 415},
      {start + "Host: x\r\nContent-Encoding: zstd\r\nContent-Length: 45\r\n\r\n" + kAsk, 415},
      {start + "Host: x\r\nExpect: miracles\r\nContent-Length: 45\r\n\r\n" + kAsk, 417},
      {start + "Host: x\r\nBad Name: x\r\n\r\n", 400},
      {start + "Host x\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400},
      {"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 400},
      {"GET /\r\n\r\n", 400},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
      {"\x16\x03\x01\x02\x01\x01\xfc", 400},
      {"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
  };
  ASSERT_EQ(kAsk.size(), 45u);
  for (const auto& [bytes, status] : table) {
    auto c = s.client();
    c.send(bytes);
    const auto a = c.receive(false, 2000);
    EXPECT_EQ(a.status, status) << bytes;
    EXPECT_TRUE(a.json().contains("error")) << bytes;
    if (status == 400) {
      EXPECT_TRUE(c.closed_within(3000)) << "after bytes that are not understood, nothing is";
    }
  }
  EXPECT_EQ(s.engine.submitted, 0);
}

TEST(Limits, SlowHeadersAndSlowBodiesRunOutOfTimeWhileOthersGoOn) {
  ServerOptions options;
  options.header_timeout = milliseconds(200);
  options.body_timeout = milliseconds(200);
  options.idle_timeout = milliseconds(300);
  const Serving s(options);
  auto headers = s.client();
  headers.send("GET /health HT");
  auto body = s.client();
  body.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  auto idle = s.client();
  auto kept = s.client();
  kept.send(get_text("/health"));
  EXPECT_EQ(kept.receive().status, 200);
  EXPECT_EQ(s.post("/v1/completions", kAsk).status, 200);
  // A byte now and then does not help.
  for (int i = 0; i < 10; ++i) {
    headers.send("x");
    std::this_thread::sleep_for(milliseconds(30));
  }
  EXPECT_TRUE(headers.closed_within(1000));
  EXPECT_TRUE(body.closed_within(1000));
  EXPECT_TRUE(idle.closed_within(1000));
  EXPECT_TRUE(kept.closed_within(1000));
}

TEST(Limits, ConnectionsBeyondTheLimitAreTold) {
  ServerOptions options;
  options.max_connections = 3;
  const Serving s(options);
  std::vector<Client> held;
  for (int i = 0; i < 3; ++i) {
    held.push_back(s.client());
    held.back().send(get_text("/health"));
    EXPECT_EQ(held.back().receive().status, 200);
  }
  auto extra = s.client();
  const auto a = extra.receive();
  EXPECT_EQ(a.status, 503);
  EXPECT_EQ(a.header("Connection"), "close");
  EXPECT_TRUE(extra.closed_within(3000));
  held.clear();
  EXPECT_TRUE(eventually([&] { return s.get("/health").status == 200; }));
}

TEST(Limits, GenerationsBeyondTheLimitAre429) {
  ServerOptions options;
  options.max_generations = 1;
  Serving s(options);
  s.engine.step_us = 5000;
  auto first = s.client();
  first.send(post_text("/v1/completions", R"({"prompt":"x","max_tokens":1000,"stream":true})"));
  ASSERT_TRUE(first.read_until("data: "));
  const auto a = s.post("/v1/completions", kAsk);
  EXPECT_EQ(a.status, 429);
  EXPECT_EQ(a.header("Retry-After"), "1");
  first.close();
  EXPECT_TRUE(eventually([&] { return s.post("/v1/completions", kAsk).status == 200; }));
}

TEST(Limits, RequestsSentAheadAreAnsweredInTheirOrder) {
  const Serving s;
  auto c = s.client();
  std::string all;
  for (int i = 0; i < 20; ++i) {
    all += i % 2 ? get_text("/v1/models")
                 : post_text("/v1/completions", fmt::format(R"({{"prompt":"{}","max_tokens":3}})", i));
  }
  c.send(all);
  for (int i = 0; i < 20; ++i) {
    const auto a = c.receive();
    ASSERT_EQ(a.status, 200) << i;
    if (i % 2) {
      EXPECT_EQ(a.json()["object"], "list");
    } else {
      EXPECT_EQ(a.json()["choices"][0]["text"], fake_continuation(byte_tokens(std::to_string(i)), 3));
    }
  }
}

TEST(Limits, Http10GetsItsStreamWithoutChunks) {
  const Serving s;
  const std::string body = R"({"prompt":"hi","max_tokens":4,"stream":true})";
  auto c = s.client();
  c.send(fmt::format("POST /v1/completions HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}", body.size(), body));
  const auto a = c.receive();
  EXPECT_EQ(a.header("Transfer-Encoding"), "");
  EXPECT_EQ(a.events().back(), "[DONE]");
  EXPECT_EQ(a.body.find('\r'), std::string::npos);
}

TEST(Fuzz, MutatedRequestsNeverHarmTheServer) {
  ServerOptions options;
  options.header_timeout = milliseconds(50);
  options.body_timeout = milliseconds(50);
  Serving s(options);
  s.engine.step_us = 50;
  std::mt19937 random(7);
  const auto pick = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  const std::vector<std::string> seeds = {
      post_text(
          "/v1/completions",
          R"({"model":"demo","prompt":["a","b"],"n":2,"stop":["x"],"logit_bias":{"5":1},"stream":true})"),
      post_text("/v1/chat/completions",
                R"({"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"max_tokens":3})"),
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
      "chunked\r\n\r\ne\r\n{\"prompt\":\"a\"}\r\n0\r\n\r\n",
      get_text("/v1/models/demo", "Authorization: Bearer x\r\n")};
  const std::vector<std::string> pieces = {"\r\n",
                                           "\0",
                                           "{",
                                           "[",
                                           "\"",
                                           "1e309",
                                           "-1",
                                           "\xff",
                                           "null",
                                           ":",
                                           "Content-Length: 5\r\n",
                                           "Transfer-Encoding: chunked\r\n",
                                           "%00",
                                           "9999999999",
                                           " "};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  int rounds = 0;
  while (std::chrono::steady_clock::now() < end) {
    auto bytes = seeds[pick(seeds.size())];
    for (auto edits = 1 + pick(6); edits > 0 && !bytes.empty(); --edits) {
      const auto at = pick(bytes.size());
      switch (pick(4)) {
        case 0:
          bytes[at] = static_cast<char>(pick(256));
          break;
        case 1:
          bytes.erase(at, 1 + pick(8));
          break;
        case 2:
          bytes.insert(at, pieces[pick(pieces.size())]);
          break;
        default:
          bytes.insert(at, bytes.substr(pick(bytes.size()), pick(32)));
      }
    }
    auto c = s.client();
    ASSERT_TRUE(c.connected());
    c.send(bytes);
    if (pick(4)) {
      while (c.read(60)) {
      }
      if (!c.buffered().empty()) {
        ASSERT_TRUE(c.buffered().starts_with("HTTP/1.1 ")) << c.buffered();
        ASSERT_NE(c.buffered()[9], '5') << bytes << c.buffered();
      }
    }
    ++rounds;
  }
  RecordProperty("rounds", rounds);
  EXPECT_GT(rounds, 20);
  EXPECT_EQ(s.post("/v1/completions", kAsk).json()["choices"][0]["text"], completion_text(4));
  EXPECT_TRUE(eventually([&] { return s.engine.live() == 0; }));
}

}  // namespace
}  // namespace trireme::server
