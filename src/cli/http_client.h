// Blocking requests to an OpenAI-compatible server. Not thread-safe.
#pragma once
#include <atomic>
#include <memory>

#include "cli/http_connection.h"

namespace trireme::cli {

struct HttpResponse {
  HttpHead head;
  std::string body;  // empty when it was streamed
};

class HttpClient {
 public:
  // Finds the host's addresses. `api_key` goes with every request when it is not empty; it must be printable
  // ASCII without spaces. While `*stop` is true, which another thread or a signal handler may set, a request
  // ends with kCancelled within 50 ms.
  static Result<HttpClient> create(const Url& url, std::string api_key, HttpTimeouts timeouts = {},
                                   const std::atomic<bool>* stop = nullptr);
  ~HttpClient();
  HttpClient(HttpClient&&) noexcept;
  HttpClient& operator=(HttpClient&&) noexcept;

  // Any status that is not 2xx is an error here: 429 and 503 kResourceExhausted, 404 kNotFound, other 4xx
  // kInvalidArgument, 5xx kInternal; the message carries the server's own.
  Result<std::string> get(const std::string& path);
  Result<std::string> post(const std::string& path, const std::string& body);
  // The data of each server-sent event, as it comes, until the stream ends or `each` returns false.
  Status post_events(const std::string& path, const std::string& body,
                     const std::function<bool(std::string_view)>& each);

 private:
  struct State;
  explicit HttpClient(std::unique_ptr<State> state);
  Result<HttpResponse> exchange(const HttpRequest& request,
                                const std::function<bool(std::string_view)>* each);

  std::unique_ptr<State> state_;
};

// What went wrong, from an answer that is not 2xx: the server's own words where it gave some.
Error status_error(const HttpHead& head, std::string_view body);
// The first model that the server offers.
Result<std::string> first_model(HttpClient& client);

}  // namespace trireme::cli
