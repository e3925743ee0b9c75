#include "cli/http_connection.h"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <optional>

#include "base/check.h"
#include "base/log.h"

namespace trireme::cli {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::beast::string_view;
using boost::system::error_code;

constexpr std::size_t kReadBytes = 16u << 10;
constexpr u32 kMaxHeadBytes = 64u << 10;

// Hands the head and the pieces of the body on as the bytes come, without a copy.
class ResponseParser final : public http::basic_parser<false> {
 public:
  explicit ResponseParser(HttpHandlers& handlers) : handlers_(handlers) {
    eager(true);
    header_limit(kMaxHeadBytes);
    body_limit(boost::none);
  }
  bool enough() const { return enough_; }

 private:
  void on_request_impl(http::verb, string_view, string_view, int, error_code&) override {}
  void on_response_impl(int status, string_view, int, error_code&) override { head_.status = status; }
  void on_field_impl(http::field name, string_view, string_view value, error_code&) override {
    if (name == http::field::content_type) head_.content_type.assign(value.data(), value.size());
    if (name == http::field::retry_after) head_.retry_after.assign(value.data(), value.size());
  }
  void on_header_impl(error_code&) override {
    if (handlers_.on_head) handlers_.on_head(head_);
  }
  void on_body_init_impl(boost::optional<std::uint64_t> const&, error_code&) override {}
  std::size_t on_body_impl(string_view body, error_code&) override { return take(body); }
  void on_chunk_header_impl(std::uint64_t, string_view, error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, error_code&) override { return take(body); }
  void on_finish_impl(error_code&) override {}

  std::size_t take(string_view body) {
    if (!enough_ && !body.empty() && handlers_.on_body) {
      enough_ = !handlers_.on_body({body.data(), body.size()});
    }
    return body.size();
  }

  HttpHandlers& handlers_;
  HttpHead head_;
  bool enough_ = false;
};

std::string request_text(const Url& url, const HttpRequest& r) {
  std::string out = fmt::format(
      "{} {}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: trireme\r\nAccept: application/json, "
      "text/event-stream\r\n",
      r.method, url.prefix, r.path, url.authority());
  if (!r.api_key.empty()) out += "Authorization: Bearer " + r.api_key + "\r\n";
  if (!r.body.empty() || r.method == "POST") {
    out += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", r.body.size());
  }
  out += "\r\n";
  out += r.body;
  return out;
}

}  // namespace

class HttpConnection::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(asio::io_context& io, Url url, std::vector<std::string> addresses, HttpTimeouts timeouts)
      : url_(std::move(url)), timeouts_(timeouts), socket_(io), timer_(io) {
    for (const auto& text : addresses) {
      error_code error;
      const auto address = asio::ip::make_address(text, error);
      if (!error) endpoints_.emplace_back(address, url_.port);
    }
  }

  void send(const HttpRequest& request, HttpHandlers handlers) {
    CHECK(!active_, "one request at a time");
    active_ = true;
    ++epoch_;
    handlers_ = std::move(handlers);
    out_ = request_text(url_, request);
    started_ = SteadyClock().now();
    reused_ = socket_.is_open();
    timer_.expires_at(asio::steady_timer::time_point::max());
    begin_exchange();
  }

  void cancel() {
    if (active_) finish(fail(ErrorCode::kCancelled, "cancelled"), false);
  }

  void abandon() {
    active_ = false;
    ++epoch_;
    handlers_ = {};
    close();
    timer_.cancel();
  }

 private:
  // Wraps a handler: it does nothing once the request that it belongs to has ended.
  template <class Extra, class F>
  auto guarded(F f) {
    return [self = shared_from_this(), epoch = epoch_, f](const error_code& error, const Extra& extra) {
      if (self->epoch_ == epoch) f(*self, error, extra);
    };
  }

  void begin_exchange() {
    parser_.emplace(handlers_);
    buffer_.clear();
    got_bytes_ = false;
    if (reused_) return write();
    set_deadline(timeouts_.connect);
    asio::async_connect(socket_, endpoints_,
                        guarded<tcp::endpoint>([](Impl& self, const error_code& error, const tcp::endpoint&) {
                          if (error) {
                            return self.finish(fail(ErrorCode::kUnavailable,
                                                    "cannot connect to {}: {}; is a server running there?",
                                                    one_line(self.url_.authority()), error.message()),
                                               false);
                          }
                          error_code ignored;
                          self.socket_.set_option(tcp::no_delay(true), ignored);
                          self.write();
                        }));
  }

  void write() {
    set_deadline(timeouts_.idle);
    writing_ = true;
    // A failed write is no end: a server that refuses a body early has often answered before it closed.
    asio::async_write(
        socket_, asio::buffer(out_),
        guarded<std::size_t>([](Impl& self, const error_code&, std::size_t) { self.writing_ = false; }));
    read();
  }

  void read() {
    socket_.async_read_some(buffer_.prepare(kReadBytes),
                            guarded<std::size_t>([](Impl& self, const error_code& error, std::size_t n) {
                              self.on_read(error, n);
                            }));
  }

  void on_read(const error_code& error, std::size_t n) {
    if (error) return on_lost(error);
    set_deadline(timeouts_.idle);
    got_bytes_ = true;
    buffer_.commit(n);
    while (buffer_.size() > 0 && !parser_->is_done()) {
      error_code parse_error;
      const std::size_t used = parser_->put(buffer_.data(), parse_error);
      buffer_.consume(used);
      if (parser_->enough()) return finish({}, false);
      if (parse_error == http::error::need_more) break;
      if (parse_error) return on_bad_bytes(parse_error);
    }
    if (parser_->is_done()) return finish({}, parser_->keep_alive() && buffer_.size() == 0);
    read();
  }

  void on_lost(const error_code& error) {
    if (reused_ && !got_bytes_) {
      // The server had closed an idle connection; nothing of this request was answered.
      close();
      ++epoch_;
      reused_ = false;
      return begin_exchange();
    }
    if (error == asio::error::eof && got_bytes_) {
      error_code end_error;
      if (parser_->is_header_done() && parser_->need_eof()) parser_->put_eof(end_error);
      if (parser_->is_done() && !end_error) return finish({}, false);
    }
    finish(fail(ErrorCode::kUnavailable, "{} closed the connection before its answer was complete ({})",
                one_line(url_.authority()), error.message()),
           false);
  }

  void on_bad_bytes(const error_code& error) {
    finish(fail(ErrorCode::kDataLoss, "{} did not answer in HTTP/1.1 ({}); is the port right?",
                one_line(url_.authority()), error.message()),
           false);
  }

  void set_deadline(Duration from_now) {
    deadline_ = SteadyClock().now() + from_now;
    if (timeouts_.total > Duration::zero()) deadline_ = std::min(deadline_, started_ + timeouts_.total);
    if (deadline_ < timer_.expiry()) arm();
  }

  // A deadline that moves away costs nothing: the timer is set again when it fires.
  void arm() {
    timer_.expires_at(std::chrono::time_point_cast<asio::steady_timer::duration>(deadline_));
    timer_.async_wait([weak = weak_from_this(), request = started_](const error_code& error) {
      const auto self = weak.lock();
      if (error || !self || !self->active_ || self->started_ != request) return;
      const Time now = SteadyClock().now();
      if (now < self->deadline_) return self->arm();
      self->finish(
          fail(ErrorCode::kDeadlineExceeded, "{} gave no {} in {:.0f} s", one_line(self->url_.authority()),
               self->got_bytes_ ? "complete answer" : "answer", seconds(now - self->started_)),
          false);
    });
  }

  void close() {
    error_code ignored;
    socket_.close(ignored);
  }

  void finish(Status status, bool keep) {
    ++epoch_;
    active_ = false;
    timer_.cancel();
    if (!keep || writing_) close();
    const auto handlers = std::move(handlers_);
    handlers_ = {};
    if (handlers.on_end) handlers.on_end(std::move(status));
  }

  Url url_;
  std::vector<tcp::endpoint> endpoints_;
  HttpTimeouts timeouts_;
  tcp::socket socket_;
  asio::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  HttpHandlers handlers_;
  std::optional<ResponseParser> parser_;
  std::string out_;
  Time started_{}, deadline_{};
  u64 epoch_ = 0;  // of the request in flight: handlers of an earlier one see that it changed
  bool active_ = false, reused_ = false, got_bytes_ = false, writing_ = false;
};

HttpConnection::HttpConnection(asio::io_context& io, Url url, std::vector<std::string> addresses,
                               HttpTimeouts timeouts)
    : impl_(std::make_shared<Impl>(io, std::move(url), std::move(addresses), timeouts)) {}

HttpConnection::~HttpConnection() {
  if (impl_) impl_->abandon();
}

void HttpConnection::send(const HttpRequest& request, HttpHandlers handlers) {
  impl_->send(request, std::move(handlers));
}

void HttpConnection::cancel() { impl_->cancel(); }

}  // namespace trireme::cli
