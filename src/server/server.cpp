#include "server/server.h"

#include <sys/resource.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <future>

#include "base/log.h"
#include "server/http/connection.h"

namespace trireme::server {
namespace {

constexpr auto kToken = net::as_tuple(net::use_awaitable);
// Connections that are only told that there are too many.
constexpr int kMaxRefused = 256;
using Acceptor = net::basic_socket_acceptor<net::ip::tcp, net::io_context::executor_type>;

// One descriptor a connection: the usual soft limit of 1024 would be the first to give.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, 65536);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

struct Server::State {
  State(ServerOptions options, Engine& engine, const TextFrontend& text)
      : service(std::move(options), engine, text) {
    for (int i = 0; i < service.options.io_threads; ++i) loops.push_back(std::make_unique<Loop>());
    acceptor = std::make_unique<Acceptor>(loops[0]->context);
  }

  Status listen() {
    boost::system::error_code ec;
    const auto& options = service.options;
    const auto fail_with = [&](const char* what) {
      return fail(ErrorCode::kUnavailable, "cannot {} {} port {}: {}", what, options.host, options.port,
                  ec.message());
    };
    const auto address = net::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, ec);
    if (ec) return invalid("--host {}: give an IP address, for example 127.0.0.1 or 0.0.0.0", options.host);
    const net::ip::tcp::endpoint endpoint(address, static_cast<unsigned short>(options.port));
    acceptor->open(endpoint.protocol(), ec);
    if (ec) return fail_with("open a socket for");
    acceptor->set_option(net::socket_base::reuse_address(true), ec);
    acceptor->bind(endpoint, ec);
    if (ec) return fail_with("listen on");
    acceptor->listen(1024, ec);
    if (ec) return fail_with("listen on");
    port = acceptor->local_endpoint(ec).port();
    return {};
  }

  net::awaitable<void> accept_all() {
    std::size_t next = 0;
    while (acceptor->is_open()) {
      Loop& loop = *loops[next++ % loops.size()];
      Socket socket(loop.context);
      const auto [ec] = co_await acceptor->async_accept(socket, kToken);
      if (ec == net::error::operation_aborted) break;
      if (ec) {
        // Out of descriptors, as a rule: accepting at once would spin.
        spdlog::warn("cannot accept a connection: {}", ec.message());
        Timer pause(loops[0]->context, milliseconds(100));
        co_await pause.async_wait(kToken);
        continue;
      }
      const int open = service.connections.load();
      const bool refused = open >= service.options.max_connections;
      if (open >= service.options.max_connections + kMaxRefused) continue;
      net::post(loop.context, [this, &loop, refused, s = std::move(socket)]() mutable {
        Connection::start(std::make_shared<Connection>(std::move(s), loop, service), refused);
      });
    }
  }

  void run_threads() {
    net::co_spawn(loops[0]->context, accept_all(), net::detached);
    for (auto& loop : loops) {
      loop->thread = std::thread([&context = loop->context] { context.run(); });
    }
  }

  // Runs on every loop, for each of its connections.
  void on_connections(const std::function<void(Connection&)>& action) {
    for (auto& loop : loops) {
      net::post(loop->context, [&loop = *loop, action] {
        const auto all = loop.connections;
        for (auto* connection : all) {
          if (loop.connections.contains(connection)) action(*connection);
        }
      });
    }
  }

  Service service;
  std::vector<std::unique_ptr<Loop>> loops;
  std::unique_ptr<Acceptor> acceptor;
  int port = 0;
  std::mutex stop_mutex;
  bool stopped = false;
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(ServerOptions options, Engine& engine,
                                              const TextFrontend& text) {
  ASSIGN(options, validated(std::move(options)));
  raise_descriptor_limit();
  auto state = std::make_unique<State>(std::move(options), engine, text);
  TRY(state->listen());
  state->run_threads();
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

int Server::port() const { return state_->port; }

void Server::drain() {
  if (state_->service.draining.exchange(true)) return;
  net::post(state_->loops[0]->context, [this] {
    boost::system::error_code ec;
    state_->acceptor->close(ec);
  });
  state_->on_connections([](Connection& c) { c.drain(); });
}

bool Server::idle() const { return state_->service.connections.load() == 0; }

void Server::cancel_all() {
  state_->on_connections([](Connection& c) {
    c.fail_generation({503, "the server is shutting down", "server_error", "", "shutting_down", 0});
  });
}

void Server::stop() {
  const std::lock_guard lock(state_->stop_mutex);
  if (std::exchange(state_->stopped, true)) return;
  drain();
  cancel_all();
  state_->on_connections([](Connection& c) { c.close(); });
  // A connection ends in its own coroutine; the worker may still hold some.
  while (!idle()) {
    std::this_thread::sleep_for(milliseconds(1));
    state_->on_connections([](Connection& c) { c.close(); });
  }
  for (auto& loop : state_->loops) {
    loop->mailbox->close();
    loop->work.reset();
    loop->context.stop();
    loop->thread.join();
  }
}

Status run(ServerOptions options, Engine& engine, const TextFrontend& text,
           const std::function<void(int)>& started) {
  const auto drain_timeout = options.drain_timeout;
  net::io_context context;
  net::signal_set signals(context, SIGINT, SIGTERM);
  ASSIGN(auto server, Server::start(std::move(options), engine, text));
  if (started) started(server->port());

  bool ended = false;
  int signal_count = 0;
  std::function<void()> listen = [&] {
    signals.async_wait([&](boost::system::error_code ec, int) {
      if (ec) return;
      if (++signal_count > 1) {
        spdlog::warn("second signal: ending at once");
        ended = true;
        return;
      }
      spdlog::info("draining: {} s for what is running; a second signal ends at once",
                   seconds(drain_timeout));
      server->drain();
      listen();
    });
  };
  listen();
  while (signal_count == 0) context.run_one();

  const Time cancel_at = std::chrono::steady_clock::now() + drain_timeout;
  const Time close_at = cancel_at + std::chrono::seconds(2);  // for the clients to read that it is over
  bool cancelled = false;
  while (!ended && !server->idle()) {
    context.run_for(milliseconds(20));
    const Time now = std::chrono::steady_clock::now();
    if (now >= cancel_at && !std::exchange(cancelled, true)) server->cancel_all();
    if (now >= close_at) break;
  }
  server->stop();
  return {};
}

}  // namespace trireme::server
