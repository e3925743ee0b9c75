#include "server/http/message.h"

#include <fmt/format.h>

#include <random>

namespace trireme::server {

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Status";
  }
}

std::string_view path_of(std::string_view target) { return target.substr(0, target.find('?')); }

std::string percent_decoded(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = static_cast<char>(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string random_id() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{:016x}{:08x}", random(), random() >> 32);
}

std::string request_id(std::string_view given) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:";
  if (given.empty() || given.size() > 128 || given.find_first_not_of(kPlain) != std::string_view::npos)
    return random_id();
  return std::string(given);
}

std::string response_head(const HttpRequest& request, const HttpReply& reply, long long length, bool close,
                          std::string_view allow_origin) {
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\nServer: trireme\r\n", reply.status, reason_phrase(reply.status));
  if (!reply.content_type.empty()) out += "Content-Type: " + reply.content_type + "\r\n";
  if (length >= 0) {
    if (reply.status != 204) out += fmt::format("Content-Length: {}\r\n", length);
  } else {
    out += "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
    if (request.http11) out += "Transfer-Encoding: chunked\r\n";
  }
  if (close) {
    out += "Connection: close\r\n";
  } else if (!request.http11) {
    out += "Connection: keep-alive\r\n";
  }
  if (!request.id.empty()) out += "X-Request-Id: " + request.id + "\r\n";
  if (!allow_origin.empty()) {
    out += fmt::format("Access-Control-Allow-Origin: {}\r\n", allow_origin);
    if (allow_origin != "*") out += "Vary: Origin\r\n";
  }
  out += "X-Content-Type-Options: nosniff\r\n";
  for (const auto& [name, value] : reply.headers) out += name + ": " + value + "\r\n";
  return out + "\r\n";
}

}  // namespace trireme::server
