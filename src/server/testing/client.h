// A plain blocking HTTP client over a real socket, for tests: it sends exactly the bytes it is given.
#pragma once
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <vector>

#include "base/json.h"

namespace trireme::server {

struct Answer {
  int status = 0;  // 0: the connection ended before an answer
  std::string head;
  std::string body;
  Json json() const { return Json::parse(body, nullptr, false); }
  std::string header(std::string name) const {
    const auto at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return {};
    const auto start = at + name.size() + 4;
    return head.substr(start, head.find("\r\n", start) - start);
  }
  // The data of a stream's events.
  std::vector<std::string> events() const {
    std::vector<std::string> out;
    for (std::size_t at = 0; (at = body.find("data: ", at)) != std::string::npos;) {
      const auto end = body.find("\n\n", at);
      out.push_back(body.substr(at + 6, end - at - 6));
      at = end;
    }
    return out;
  }
};

class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) {
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_buffer) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    const int one = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) close();
  }
  ~Client() { close(); }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)), buffer_(std::move(other.buffer_)) {}
  Client& operator=(Client&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  Client(const Client&) = delete;

  bool connected() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void reset() {
    const linger hard{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close();
  }
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // More bytes; false at the end of the connection, or after `ms`.
  bool read(int ms = 10000) {
    pollfd p{fd_, POLLIN, 0};
    if (fd_ < 0 || poll(&p, 1, ms) <= 0) return false;
    char bytes[65536];
    const auto n = recv(fd_, bytes, sizeof bytes, 0);
    if (n <= 0) return false;
    buffer_.append(bytes, static_cast<std::size_t>(n));
    return true;
  }
  // True when the server closes within `ms`.
  bool closed_within(int ms) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
    while (std::chrono::steady_clock::now() < end) {
      pollfd p{fd_, POLLIN, 0};
      if (poll(&p, 1, 10) <= 0) continue;
      char bytes[65536];
      if (recv(fd_, bytes, sizeof bytes, 0) <= 0) return true;
    }
    return false;
  }
  bool read_until(std::string_view text, int ms = 10000) {
    while (buffer_.find(text) == std::string::npos) {
      if (!read(ms)) return false;
    }
    return true;
  }
  const std::string& buffered() const { return buffer_; }

  Answer receive(bool head_only = false, int ms = 10000) {
    Answer out;
    do {
      if (!read_until("\r\n\r\n", ms)) return out;
      const auto end = buffer_.find("\r\n\r\n") + 4;
      out.head = buffer_.substr(0, end);
      buffer_.erase(0, end);
      out.status = std::stoi(out.head.substr(9, 3));
    } while (out.status == 100);
    if (head_only || out.status == 204) return out;
    if (out.header("Transfer-Encoding") == "chunked") {
      while (true) {
        if (!read_until("\r\n", ms)) return out.status = -1, out;
        const auto line = buffer_.find("\r\n");
        const auto size = std::stoul(buffer_.substr(0, line), nullptr, 16);
        while (buffer_.size() < line + 2 + size + 2) {
          if (!read(ms)) return out.status = -1, out;
        }
        out.body += buffer_.substr(line + 2, size);
        buffer_.erase(0, line + 2 + size + 2);
        if (size == 0) return out;
      }
    }
    const auto length = out.header("Content-Length");
    if (length.empty()) {
      while (read(ms)) {
      }
      out.body = std::exchange(buffer_, {});
      return out;
    }
    const auto size = std::stoul(length);
    while (buffer_.size() < size) {
      if (!read(ms)) return out.status = -1, out;
    }
    out.body = buffer_.substr(0, size);
    buffer_.erase(0, size);
    return out;
  }

 private:
  int fd_ = -1;
  std::string buffer_;
};

inline std::string get_text(std::string_view path, std::string_view headers = "") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: test\r\n{}\r\n", path, headers);
}
inline std::string post_text(std::string_view path, std::string_view body, std::string_view headers = "") {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{}",
      path, body.size(), headers, body);
}

}  // namespace trireme::server
