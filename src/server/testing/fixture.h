// A server over a fake engine on a free port of this machine.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>

#include "server/server.h"
#include "server/testing/client.h"
#include "server/testing/fake_engine.h"

namespace trireme::server {

inline bool eventually(const std::function<bool()>& holds, int ms = 5000) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

inline int open_descriptors() {
  int n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
  return n;
}

struct Serving {
  explicit Serving(ServerOptions options = {}, int max_model_len = 4096) : engine(max_model_len) {
    options.port = 0;
    options.log_requests = false;
    auto started = Server::start(options, engine, text);
    EXPECT_TRUE(started) << (started ? "" : started.error().message);
    server = std::move(*started);
  }
  int port() const { return server->port(); }
  Client client() const { return Client(port()); }

  Answer ask(const std::string& bytes) const {
    auto c = client();
    c.send(bytes);
    return c.receive();
  }
  Answer get(std::string_view path, std::string_view headers = "") const {
    return ask(get_text(path, headers));
  }
  Answer post(std::string_view path, std::string_view body, std::string_view headers = "") const {
    return ask(post_text(path, body, headers));
  }
  Answer chat(const Json& more) const {
    Json body = {{"model", "demo"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"max_tokens", 8}};
    if (!more.is_null()) body.update(more);
    return post("/v1/chat/completions", body.dump());
  }
  Answer complete(const Json& more) const {
    Json body = {{"model", "demo"}, {"prompt", "hi"}, {"max_tokens", 8}};
    if (!more.is_null()) body.update(more);
    return post("/v1/completions", body.dump());
  }

  FakeText text;
  FakeEngine engine;
  std::unique_ptr<Server> server;
};

inline std::vector<TokenId> byte_tokens(std::string_view text) {
  std::vector<TokenId> out;
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}
// The prompt of Serving::chat, and what comes after it.
inline std::string chat_text(std::size_t tokens) { return fake_continuation({257, 'h', 'i', 259}, tokens); }
inline std::string completion_text(std::size_t tokens) { return fake_continuation({'h', 'i'}, tokens); }

}  // namespace trireme::server
