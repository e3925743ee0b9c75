// What all connections of a server share, and every route that answers at once.
#pragma once
#include <atomic>
#include <optional>
#include <span>

#include "server/auth.h"
#include "server/canary.h"
#include "server/http/message.h"
#include "server/openai/request.h"
#include "server/options.h"
#include "server/server_metrics.h"
#include "server/worker.h"

namespace trireme::server {

enum class Route {
  kUnknown,
  kHealth,
  kReady,
  kMetrics,
  kVersion,
  kModels,
  kModel,
  kChat,
  kCompletions,
  kTokenize,
  kDetokenize,
  kPage,
};
Route route_of(std::string_view path);
// As it appears in metrics: one of a fixed set, whatever the path.
std::string_view route_name(Route route);

// Thread-safe.
class Service {
 public:
  // `options` are validated; the engine and the text outlive the service.
  Service(ServerOptions options, Engine& engine, const TextFrontend& text);

  // Everything that is known before the body is read: method, path, key. An answer here is final; otherwise
  // request.tenant is set.
  std::optional<HttpReply> gate(HttpRequest& request, Route route) const;
  // A route that needs neither the engine's tokens nor time, except that (de)tokenising takes as long as the
  // text is long.
  HttpReply answer(const HttpRequest& request, Route route);
  // The verdict of Canary::look() as an answer.
  HttpReply ready_answer(const Canary::Verdict& verdict);
  // A body on its way to token ids. Takes as long as the text is long.
  ApiResult<PreparedRequest> prepare(Route route, std::string_view body) const;

  void log(const HttpRequest& request, std::string_view peer, Route route, int status,
           std::string_view details);

  const ServerOptions options;
  Engine& engine;
  const TextFrontend& text;
  const Auth auth;
  RequestLimits limits;
  ServerMetrics metrics;
  Canary canary;
  Worker worker;
  std::atomic<bool> draining{false};
  std::atomic<int> connections{0};
  std::atomic<int> generations{0};
  std::atomic<std::size_t> body_bytes{0};  // set aside for bodies that are being read or worked on

 private:
  HttpReply models() const;
  HttpReply model(std::string_view name) const;
  HttpReply tokenize(std::string_view body) const;
  HttpReply detokenize(std::string_view body) const;
  std::string model_json(const std::string& name) const;

  i64 created_;
};

HttpReply error_reply(const ApiError& error);

// A file of the chat page.
struct PageFile {
  std::string_view path;
  std::string_view content_type;
  std::string_view bytes;
};
std::span<const PageFile> page_files();

}  // namespace trireme::server
