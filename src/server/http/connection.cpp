#include "server/http/connection.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/log.h"

namespace trireme::server {
namespace {

constexpr auto kToken = net::as_tuple(net::use_awaitable);
constexpr Duration kForever = std::chrono::hours(24 * 365);
// What a client may send ahead while it waits for an answer.
constexpr std::size_t kMaxReadAhead = 64u << 10;
// Below this rate a client counts as gone, whatever it still reads.
constexpr double kMinBytesPerSecond = 64 << 10;
// How much a refused client may still send, so that it sees the answer and not a reset.
constexpr std::size_t kMaxLinger = 64u << 20;

}  // namespace

Connection::Connection(Socket socket, Loop& loop, Service& service)
    : socket_(std::move(socket)),
      loop_(loop),
      service_(service),
      signal_(loop.context),
      deadline_timer_(loop.context),
      buffer_(service.options.max_header_bytes + (128u << 10)) {
  boost::system::error_code ec;
  const auto peer = socket_.remote_endpoint(ec);
  if (!ec) peer_ = fmt::format("{}:{}", peer.address().to_string(), peer.port());
  socket_.set_option(net::ip::tcp::no_delay(true), ec);
  // Bounds what the kernel holds for a client that does not read.
  socket_.set_option(net::socket_base::send_buffer_size(128 << 10), ec);
  loop_.connections.insert(this);
  service_.connections.fetch_add(1);
  service_.metrics.connections.add(1);
  // Made after drain() looked: nobody will come to tell.
  draining_ = service_.draining.load();
}

Connection::~Connection() {
  loop_.connections.erase(this);
  service_.connections.fetch_sub(1);
  service_.metrics.connections.add(-1);
}

void Connection::start(std::shared_ptr<Connection> self, bool refused) {
  auto& context = self->loop_.context;
  auto run = [](std::shared_ptr<Connection> c, bool refuse_it) -> net::awaitable<void> {
    if (refuse_it)
      co_await c->refuse();
    else
      co_await c->serve();
  };
  net::co_spawn(context, run(self, refused), [self](std::exception_ptr error) {
    if (error) {
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& e) {
        spdlog::error("a connection ended in an exception: {}", one_line(e.what()));
      }
    }
    if (self->generation_) self->generation_->detach();
    self->close();
  });
}

void Connection::drain() {
  draining_ = true;
  if (idle_) close();
}

void Connection::fail_generation(const ApiError& error) {
  if (generation_) generation_->fail(error);
}

void Connection::close() {
  gone_ = true;
  clear_deadline();
  deadline_timer_.cancel();
  boost::system::error_code ec;
  socket_.close(ec);
  signal();
}

net::awaitable<void> Connection::wait(Duration at_most) {
  signal_.expires_after(at_most);
  co_await signal_.async_wait(kToken);
}

void Connection::arm_deadline() {
  armed_ = deadline_;
  deadline_timer_.expires_at(armed_);
  deadline_timer_.async_wait([self = shared_from_this()](boost::system::error_code ec) {
    if (ec) return;  // armed anew, or closed
    self->armed_ = Time::max();
    if (self->deadline_ == Time::max()) return;
    if (std::chrono::steady_clock::now() >= self->deadline_)
      self->close();
    else
      self->arm_deadline();
  });
}

void Connection::set_deadline(Duration from_now) {
  deadline_ = std::chrono::steady_clock::now() + from_now;
  // A timer that fires too early looks again; so a deadline that only moves away costs nothing.
  if (deadline_ < armed_) arm_deadline();
}

void Connection::watch() {
  if (watching_ || gone_) return;
  watching_ = true;
  socket_.async_read_some(buffer_.prepare(4096),
                          [self = shared_from_this()](boost::system::error_code ec, std::size_t n) {
                            self->watching_ = false;
                            if (!ec) self->buffer_.commit(n);
                            if (self->unwatching_ && (!ec || ec == net::error::operation_aborted))
                              return self->signal();
                            if (ec || self->buffer_.size() > kMaxReadAhead) return self->close();
                            self->watch();
                          });
}

net::awaitable<void> Connection::unwatch() {
  if (!watching_) co_return;
  unwatching_ = true;
  boost::system::error_code ec;
  socket_.cancel(ec);
  while (watching_) co_await wait(kForever);
  unwatching_ = false;
}

net::awaitable<bool> Connection::write(std::string_view bytes) {
  // A client that takes nothing for a while is gone, and so is one that takes a little for ever.
  const Duration stall = service_.options.slow_reader_timeout;
  const Time end = std::chrono::steady_clock::now() + stall +
                   from_seconds(static_cast<double>(bytes.size()) / kMinBytesPerSecond);
  while (!bytes.empty() && !gone_) {
    set_deadline(std::min(stall, Duration(end - std::chrono::steady_clock::now())));
    const auto [ec, n] = co_await socket_.async_write_some(net::buffer(bytes.data(), bytes.size()), kToken);
    if (ec) co_return false;
    bytes.remove_prefix(n);
  }
  clear_deadline();
  co_return !gone_;
}

net::awaitable<void> Connection::linger() {
  boost::system::error_code ec;
  socket_.shutdown(net::ip::tcp::socket::shutdown_send, ec);
  set_deadline(std::chrono::seconds(2));
  std::string waste(64u << 10, '\0');
  for (std::size_t seen = 0; seen < kMaxLinger && !gone_;) {
    const auto [error, n] = co_await socket_.async_read_some(net::buffer(waste), kToken);
    if (error) break;
    seen += n;
  }
}

net::awaitable<void> Connection::on_worker(std::function<void()> work) {
  auto done = std::make_shared<bool>(false);
  service_.worker.run([self = shared_from_this(), done, work = std::move(work)]() mutable {
    work();
    auto& context = self->loop_.context;
    net::post(context, [self = std::move(self), done] {
      *done = true;
      self->signal();
    });
  });
  while (!*done) co_await wait(kForever);
}

net::awaitable<bool> Connection::send(const HttpRequest& request, HttpReply reply, Route route,
                                      bool close_after, std::string_view details) {
  close_after |= !request.keep_alive || draining_ || service_.draining.load();
  auto bytes = response_head(request, reply, static_cast<long long>(reply.body.size()), close_after,
                             service_.options.allow_origin);
  if (request.method != "HEAD") bytes += reply.body;
  const bool sent = co_await write(bytes);
  service_.log(request, peer_, route, reply.status, details);
  co_return sent && !close_after;
}

net::awaitable<HttpReply> Connection::ready() {
  auto verdict = service_.canary.look();
  while (verdict.state == Canary::Verdict::State::kPending && !service_.draining && !gone_) {
    co_await wait(milliseconds(2));
    verdict = service_.canary.look();
  }
  co_return service_.ready_answer(verdict);
}

net::awaitable<bool> Connection::dispatch(HttpRequest request, Route route) {
  constexpr std::size_t kQuickBytes = 16u << 10;
  switch (route) {
    case Route::kChat:
    case Route::kCompletions:
      co_return co_await generate(request, route);
    case Route::kReady: {
      auto reply = co_await ready();
      co_return co_await send(request, std::move(reply), route, false);
    }
    default: {
      HttpReply reply;
      auto answer = [&] {
        try {
          reply = service_.answer(request, route);
        } catch (const std::exception& e) {
          reply = error_reply({500, e.what(), "server_error", "", "internal_error", 0});
        }
      };
      if (request.body.size() > kQuickBytes)
        co_await on_worker(answer);
      else
        answer();
      co_return co_await send(request, std::move(reply), route, false);
    }
  }
}

net::awaitable<void> Connection::serve() {
  const auto self = shared_from_this();
  while (!gone_ && !draining_) {
    if (!co_await serve_one()) break;
  }
  if (!gone_ && unread_) co_await linger();
}

net::awaitable<void> Connection::refuse() {
  HttpRequest nobody;
  service_.metrics.connections_refused.add();
  auto reply = error_reply({503, "the server has as many connections as it takes; try again later",
                            "server_error", "", "too_many_connections", 1});
  set_deadline(service_.options.header_timeout);
  co_await write(response_head(nobody, reply, static_cast<long long>(reply.body.size()), true, "") +
                 reply.body);
  if (!gone_) co_await linger();
}

}  // namespace trireme::server
