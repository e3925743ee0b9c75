// A server for tests: a thread a connection, and a script that writes whatever bytes it likes.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"

namespace trireme::cli {

class TestPeer {
 public:
  explicit TestPeer(int fd) : fd_(fd) {}
  bool write(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // One chunk of a chunked body; an empty one ends it.
  bool chunk(std::string_view bytes) { return write(fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes)); }
  // Waits until the client has gone away.
  void wait_for_end() {
    char byte = 0;
    while (::recv(fd_, &byte, 1, 0) > 0) {
    }
  }
  // Head and body of the next request; empty when the client has closed.
  std::string read_request() {
    std::string text = std::move(rest_);
    std::size_t want = std::string::npos;
    while (true) {
      if (want == std::string::npos) {
        const auto end = text.find("\r\n\r\n");
        if (end != std::string::npos) {
          const auto at = text.find("Content-Length: ");
          want = end + 4 + (at < end ? std::stoul(text.substr(at + 16)) : 0);
        }
      }
      if (text.size() >= want) break;
      char buffer[4096];
      const auto n = ::recv(fd_, buffer, sizeof buffer, 0);
      if (n <= 0) return {};
      text.append(buffer, static_cast<std::size_t>(n));
    }
    rest_ = text.substr(want);
    text.resize(want);
    return text;
  }

 private:
  int fd_;
  std::string rest_;
};

inline const std::string kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

inline std::string plain_answer(int status, std::string_view body, std::string_view headers = {}) {
  return fmt::format("HTTP/1.1 {} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{}",
                     status, body.size(), headers, body);
}

class TestServer {
 public:
  // Answers one request; false closes the connection. Called from many threads.
  using Script = std::function<bool(const std::string& request, TestPeer& peer)>;

  explicit TestServer(Script script) : script_(std::move(script)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
    CHECK(::listen(listener_, 1024) == 0);
    CHECK(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~TestServer() {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : peers_) ::shutdown(fd, SHUT_RDWR);
    }
    for (auto& thread : threads_) thread.join();
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}", port_); }
  int connections() const { return connections_; }

 private:
  void accept_all() {
    while (true) {
      const int fd = ::accept(listener_, nullptr, nullptr);
      if (fd < 0) return;
      const int one = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      ++connections_;
      const std::lock_guard lock(mutex_);
      peers_.push_back(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }
  void serve(int fd) {
    TestPeer peer(fd);
    while (true) {
      const auto request = peer.read_request();
      if (request.empty() || !script_(request, peer)) break;
    }
    const std::lock_guard lock(mutex_);
    std::erase(peers_, fd);
    ::close(fd);
  }

  Script script_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> connections_{0};
  std::thread acceptor_;
  std::mutex mutex_;
  std::vector<int> peers_;
  std::vector<std::thread> threads_;
};

}  // namespace trireme::cli
