// How a connection reads a request: with Beast's parser, under every limit that the options name.
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include "base/log.h"
#include "server/http/connection.h"

namespace trireme::server {
namespace {

namespace http = boost::beast::http;
constexpr auto kToken = net::as_tuple(net::use_awaitable);
using Parser = http::request_parser<http::string_body>;

ApiError bad_http(int status, std::string message, std::string code) {
  return {status, std::move(message), "invalid_request_error", "", std::move(code), 0};
}

// What to answer to a request that the parser refused; nothing when nobody is left to answer to.
std::optional<ApiError> parse_failure(boost::system::error_code ec, const ServerOptions& options) {
  if (ec == http::error::body_limit) {
    return bad_http(
        413,
        fmt::format("the body is larger than {} bytes, the most this server reads", options.max_body_bytes),
        "body_too_large");
  }
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return bad_http(431, fmt::format("the headers are larger than {} bytes", options.max_header_bytes),
                    "headers_too_large");
  }
  if (ec == http::error::end_of_stream || ec == http::error::partial_message) return std::nullopt;
  if (ec.category() != http::make_error_code(http::error::end_of_stream).category()) return std::nullopt;
  return bad_http(400, fmt::format("not a valid HTTP/1 request: {}", ec.message()), "bad_http");
}

std::string field(const Parser& parser, http::field name) {
  const auto value = parser.get()[name];
  return {value.data(), value.size()};
}

// What Beast lets through and a server behind a proxy must not.
std::optional<ApiError> check_headers(const Parser& parser) {
  const auto& fields = parser.get();
  if (parser.get().version() != 11 && parser.get().version() != 10) {
    return bad_http(400, "only HTTP/1.0 and HTTP/1.1 are spoken here", "bad_http");
  }
  const auto hosts = fields.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && fields.version() == 11))
    return bad_http(400, "one Host header is needed", "bad_http");
  const bool coded = fields.count(http::field::transfer_encoding) > 0;
  if (coded && fields.count(http::field::content_length) > 0) {
    return bad_http(400, "Content-Length and Transfer-Encoding exclude each other", "bad_http");
  }
  if (coded &&
      (!parser.chunked() || !boost::beast::iequals(fields[http::field::transfer_encoding], "chunked") ||
       fields.version() != 11)) {
    return bad_http(400, "the only Transfer-Encoding that is taken is chunked, in HTTP/1.1", "bad_http");
  }
  if (fields.count(http::field::authorization) > 1)
    return bad_http(400, "more than one Authorization header", "bad_http");
  const auto encoding = fields[http::field::content_encoding];
  if (!encoding.empty() && !boost::beast::iequals(encoding, "identity")) {
    return bad_http(415, "compressed bodies are not taken; send the JSON as it is", "unsupported_encoding");
  }
  const auto expect = fields[http::field::expect];
  if (!expect.empty() && !boost::beast::iequals(expect, "100-continue")) {
    return bad_http(417, "the only expectation that is met is 100-continue", "bad_http");
  }
  return std::nullopt;
}

// A share of the memory for bodies, as large as what has come so far; given back at the end. Small bodies are
// free, so that a few large ones never keep them out.
class BodyShare {
 public:
  explicit BodyShare(Service& service) : service_(service) {}
  ~BodyShare() { service_.body_bytes.fetch_sub(held_); }
  BodyShare(const BodyShare&) = delete;
  BodyShare& operator=(const BodyShare&) = delete;

  // False when there is no more.
  bool grow_to(std::size_t bytes) {
    constexpr std::size_t kFree = 256u << 10;
    if (bytes <= kFree || bytes <= held_) return true;
    const auto more = bytes - std::exchange(held_, bytes);
    return service_.body_bytes.fetch_add(more) + more <= service_.options.max_bodies_bytes;
  }

 private:
  Service& service_;
  std::size_t held_ = 0;
};

}  // namespace

net::awaitable<bool> Connection::wait_for_bytes() {
  if (buffer_.size() > 0) co_return true;
  idle_ = true;
  set_deadline(service_.options.idle_timeout);
  const auto [ec, n] = co_await socket_.async_read_some(buffer_.prepare(4096), kToken);
  idle_ = false;
  buffer_.commit(n);
  co_return !ec && n > 0;
}

net::awaitable<bool> Connection::serve_one() {
  if (!co_await wait_for_bytes()) {
    gone_ = true;
    co_return false;
  }
  const auto& options = service_.options;
  HttpRequest request;
  request.arrived = std::chrono::steady_clock::now();
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(options.max_header_bytes));
  parser.body_limit(options.max_body_bytes);
  set_deadline(options.header_timeout);
  auto [ec, n] = co_await http::async_read_header(socket_, buffer_, parser, kToken);
  clear_deadline();
  const auto copy_head = [&] {
    const auto& head = parser.get();
    request.method.assign(head.method_string().data(), head.method_string().size());
    request.target.assign(head.target().data(), head.target().size());
    request.path = path_of(request.target);
    const auto id = head["X-Request-Id"];
    request.id = request_id({id.data(), id.size()});
    request.http11 = head.version() == 11;
  };
  unread_ = true;
  if (ec) {
    const auto error = parse_failure(ec, options);
    if (!error) {
      gone_ = true;
      co_return false;
    }
    copy_head();
    request.http11 = true;
    co_await send(request, error_reply(*error), Route::kUnknown, true);
    co_return false;
  }
  copy_head();
  request.authorization = field(parser, http::field::authorization);
  request.origin = field(parser, http::field::origin);
  const auto site = parser.get()["Sec-Fetch-Site"];
  request.fetch_site.assign(site.data(), site.size());
  request.keep_alive = parser.keep_alive();

  const Route route = route_of(request.path);
  if (const auto error = check_headers(parser)) {
    co_await send(request, error_reply(*error), route, true);
    co_return false;
  }
  if (auto reply = service_.gate(request, route)) {
    // The body of a refused request is not read, so that the connection cannot go on; without one it can.
    unread_ = !parser.is_done();
    co_return co_await send(request, std::move(*reply), route, unread_);
  }
  auto share = std::make_shared<BodyShare>(service_);
  if (!parser.is_done()) {
    if (!parser.get()[http::field::expect].empty() && !co_await write("HTTP/1.1 100 Continue\r\n\r\n"))
      co_return false;
    set_deadline(options.body_timeout);
    std::optional<ApiError> error;
    while (!parser.is_done() && !ec && !error) {
      std::tie(ec, n) = co_await http::async_read_some(socket_, buffer_, parser, kToken);
      if (!share->grow_to(parser.get().body().size())) {
        error = ApiError{
            503, "too many large requests are being read; try again later", "server_error", "", "overloaded",
            1};
      }
    }
    clear_deadline();
    if (ec) error = parse_failure(ec, options);
    if (ec && !error) {
      gone_ = true;
      co_return false;
    }
    if (error) {
      co_await send(request, error_reply(*error), route, true);
      co_return false;
    }
  }
  request.body_share = std::move(share);
  unread_ = false;
  request.body = std::move(parser.get().body());
  request.arrived = std::chrono::steady_clock::now();
  co_return co_await dispatch(std::move(request), route);
}

}  // namespace trireme::server
