#include "cli/http_client.h"

#include <boost/asio/io_context.hpp>
#include <optional>

#include "base/json.h"
#include "base/log.h"
#include "cli/sse.h"

namespace trireme::cli {
namespace {

constexpr std::size_t kMaxBodyBytes = 64u << 20;
constexpr auto kCancelPoll = std::chrono::milliseconds(50);

// {"error": {"message": ...}}, {"error": "..."}, {"message": ...} or {"detail": ...}; else the body itself.
std::string server_words(std::string_view body) {
  const auto json = parse_json(body, "answer", {.max_bytes = 1u << 20});
  if (!json || !json->is_object()) return one_line(body);
  const Json* at = &*json;
  if (const auto error = at->find("error"); error != at->end()) at = &*error;
  if (at->is_object()) {
    for (const char* key : {"message", "detail"}) {
      if (const auto found = at->find(key); found != at->end()) {
        return one_line(found->is_string() ? found->get<std::string>() : to_text(*found), 1024);
      }
    }
  }
  return one_line(at->is_string() ? at->get<std::string>() : to_text(*at), 1024);
}

}  // namespace

struct HttpClient::State {
  State(const Url& url, std::vector<std::string> addresses, std::string key, HttpTimeouts timeouts,
        const std::atomic<bool>* stop_flag)
      : connection(io, url, std::move(addresses), timeouts), api_key(std::move(key)), stop(stop_flag) {}

  boost::asio::io_context io{1};
  HttpConnection connection;
  std::string api_key;
  const std::atomic<bool>* stop;
};

HttpClient::HttpClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpClient::~HttpClient() = default;
HttpClient::HttpClient(HttpClient&&) noexcept = default;
HttpClient& HttpClient::operator=(HttpClient&&) noexcept = default;

Result<HttpClient> HttpClient::create(const Url& url, std::string api_key, HttpTimeouts timeouts,
                                      const std::atomic<bool>* stop) {
  for (const char c : api_key) {
    if (c <= 0x20 || c > 0x7e) return invalid("the API key may hold printable ASCII without spaces only");
  }
  ASSIGN(auto addresses, resolve(url));
  return HttpClient(std::make_unique<State>(url, std::move(addresses), std::move(api_key), timeouts, stop));
}

Result<HttpResponse> HttpClient::exchange(const HttpRequest& request,
                                          const std::function<bool(std::string_view)>* each) {
  HttpResponse out;
  std::optional<Status> end;
  SseParser events;
  Status parsed;
  bool wanted = true;
  const auto on_body = [&](std::string_view bytes) {
    if (each != nullptr && out.head.status / 100 == 2) {
      parsed = events.push(bytes, [&](std::string_view data) { wanted = wanted && (*each)(data); });
    } else if (out.body.size() + bytes.size() > kMaxBodyBytes) {
      parsed = fail(ErrorCode::kDataLoss, "the server's answer has more than {} bytes", kMaxBodyBytes);
    } else {
      out.body += bytes;
    }
    return wanted && parsed.has_value();
  };
  HttpRequest keyed = request;
  keyed.api_key = state_->api_key;
  state_->connection.send(keyed, {[&](const HttpHead& head) { out.head = head; }, on_body,
                                  [&](Status status) { end = std::move(status); }});
  state_->io.restart();
  while (!end) {
    if (state_->stop != nullptr && state_->stop->load()) state_->connection.cancel();
    if (!end) state_->io.run_one_for(kCancelPoll);
  }
  TRY(*end);
  TRY(parsed);
  return out;
}

Result<std::string> HttpClient::get(const std::string& path) {
  ASSIGN(auto response, exchange({.method = "GET", .path = path}, nullptr));
  if (response.head.status / 100 != 2) return tl::unexpected(status_error(response.head, response.body));
  return std::move(response.body);
}

Result<std::string> HttpClient::post(const std::string& path, const std::string& body) {
  ASSIGN(auto response, exchange({.method = "POST", .path = path, .body = body}, nullptr));
  if (response.head.status / 100 != 2) return tl::unexpected(status_error(response.head, response.body));
  return std::move(response.body);
}

Status HttpClient::post_events(const std::string& path, const std::string& body,
                               const std::function<bool(std::string_view)>& each) {
  ASSIGN(auto response, exchange({.method = "POST", .path = path, .body = body}, &each));
  if (response.head.status / 100 != 2) return tl::unexpected(status_error(response.head, response.body));
  return {};
}

Error status_error(const HttpHead& head, std::string_view body) {
  std::string message = fmt::format("the server answered {}", head.status);
  if (!body.empty()) message += ": " + server_words(body);
  switch (head.status) {
    case 401:
    case 403:
      return {ErrorCode::kInvalidArgument, message + " (give a key with --api-key or TRIREME_API_KEY)"};
    case 404:
      return {ErrorCode::kNotFound, message + " (check --url and --model)"};
    case 429:
    case 503:
      if (!head.retry_after.empty()) {
        message += fmt::format(" (try again in {} s)", one_line(head.retry_after, 32));
      }
      return {ErrorCode::kResourceExhausted, message};
    default:
      return {head.status / 100 == 4 ? ErrorCode::kInvalidArgument : ErrorCode::kInternal, message};
  }
}

Result<std::string> first_model(HttpClient& client) {
  ASSIGN(auto body, client.get("/v1/models"));
  ASSIGN(auto json, parse_json(body, "the answer of /v1/models"));
  if (json.is_object() && json.contains("data") && json["data"].is_array()) {
    for (const auto& model : json["data"]) {
      if (model.is_object() && model.contains("id") && model["id"].is_string()) {
        return model["id"].get<std::string>();
      }
    }
  }
  return fail(ErrorCode::kNotFound, "the server names no model; give one with --model");
}

}  // namespace trireme::cli
