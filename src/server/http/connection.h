// One HTTP/1 connection: reads requests, answers them one after another, and while an answer is being made
// watches whether the client is still there. Lives on one loop; only its maker and these methods touch it.
#pragma once
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <memory>
#include <string>

#include "server/http/loop.h"
#include "server/openai/generation.h"
#include "server/service.h"

namespace trireme::server {

namespace net = boost::asio;
using Socket = net::basic_stream_socket<net::ip::tcp, net::io_context::executor_type>;
using Timer =
    net::basic_waitable_timer<std::chrono::steady_clock, net::wait_traits<std::chrono::steady_clock>,
                              net::io_context::executor_type>;

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Socket socket, Loop& loop, Service& service);
  ~Connection();

  // Serves until the connection ends. `refused`: answers 503 whatever comes, and closes.
  static void start(std::shared_ptr<Connection> self, bool refused);

  // The server is going away: an idle connection closes now, a busy one after its answer.
  void drain();
  // What is being generated ends with an error, which the client still gets.
  void fail_generation(const ApiError& error);
  void close();

 private:
  net::awaitable<void> serve();
  net::awaitable<void> refuse();
  net::awaitable<bool> serve_one();  // false: the connection is to be closed
  net::awaitable<bool> wait_for_bytes();
  net::awaitable<bool> dispatch(HttpRequest request, Route route);
  net::awaitable<bool> generate(HttpRequest& request, Route route);
  net::awaitable<bool> send_stream(HttpRequest& request, Route route, Generation& generation);
  net::awaitable<HttpReply> ready();
  net::awaitable<bool> send(const HttpRequest& request, HttpReply reply, Route route, bool close,
                            std::string_view details = {});
  net::awaitable<bool> write(std::string_view bytes);
  net::awaitable<void> linger();
  net::awaitable<void> on_worker(std::function<void()> work);

  // Waits until signal() or the time is over.
  net::awaitable<void> wait(Duration at_most);
  void signal() { signal_.cancel(); }
  void watch();  // reads ahead, to learn of the client's end
  net::awaitable<void> unwatch();
  void set_deadline(Duration from_now);
  void clear_deadline() { deadline_ = Time::max(); }
  void arm_deadline();
  void check_slow_reader();

  Socket socket_;
  Loop& loop_;
  Service& service_;
  Timer signal_;
  Timer deadline_timer_;
  Time deadline_ = Time::max();
  Time armed_ = Time::max();
  boost::beast::flat_buffer buffer_;
  std::string peer_;
  std::shared_ptr<Generation> generation_;
  std::string frame_;  // being written, of a stream
  bool writing_stream_ = false;
  Time over_limit_since_ = Time::max();
  bool idle_ = false;
  bool draining_ = false;
  bool watching_ = false;
  bool unwatching_ = false;
  bool unread_ = false;  // the client may be sending what nobody will read
  bool gone_ = false;    // the client, or the whole connection
};

}  // namespace trireme::server
