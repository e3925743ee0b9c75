// A request as the routes see it, and what they answer.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace trireme::server {

struct HttpRequest {
  std::string method;  // "GET"
  std::string target;  // as sent
  std::string path;    // of the target, up to "?"; not decoded: only what is spelled exactly is a route
  std::string authorization;
  std::string fetch_site;  // Sec-Fetch-Site
  std::string origin;
  std::string id;      // x-request-id, the client's or ours
  std::string tenant;  // set by authorisation
  std::string body;
  std::shared_ptr<void> body_share;  // of the memory for bodies; given back with it
  bool http11 = true;
  bool keep_alive = false;
  Time arrived{};  // its last byte
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

std::string_view reason_phrase(int status);
std::string_view path_of(std::string_view target);
// %XX decoded; as it was where that is not possible.
std::string percent_decoded(std::string_view text);
// The client's id when it is short and plain, else a new random one.
std::string request_id(std::string_view given);
// 24 random hexadecimal digits. Thread-safe.
std::string random_id();

// Status line and headers of an answer. `length` < 0: a stream, chunked for HTTP/1.1.
std::string response_head(const HttpRequest& request, const HttpReply& reply, long long length, bool close,
                          std::string_view allow_origin);

}  // namespace trireme::server
