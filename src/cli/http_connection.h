// One connection to an HTTP/1.1 server, driven by an io_context: requests one after another, the answer's
// body handed on as it comes.
//
// Everything here belongs to the thread that runs the io_context; handlers are called from it.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/types.h"

namespace boost::asio {
class io_context;
}

namespace trireme::cli {

struct Url {
  std::string host;  // a name or an address; IPv6 without its brackets
  u16 port = 80;
  std::string prefix;             // path before the API's own, without a slash at its end: "" or "/v2/llm"
  std::string authority() const;  // host:port as in a Host header
};
// http://host[:port][/prefix]; the scheme may be left out. A prefix that ends in /v1 loses that: routes name
// it themselves. https is refused with kUnsupported.
Result<Url> parse_url(std::string_view text);

// The addresses of the host, as text, in the order to try them. Blocks; kUnavailable when there is none.
Result<std::vector<std::string>> resolve(const Url& url);

struct HttpRequest {
  std::string method = "GET";
  std::string path = {};     // below the URL's prefix: "/v1/models"
  std::string body = {};     // JSON, when not empty
  std::string api_key = {};  // sent as a bearer token when not empty
};

struct HttpHead {
  int status = 0;
  std::string content_type = {};
  std::string retry_after = {};
};

struct HttpTimeouts {
  Duration connect = std::chrono::seconds(10);
  Duration idle = std::chrono::seconds(300);  // between bytes, and for the first one
  Duration total = Duration::zero();          // of a whole request; zero: no limit
};

// on_head and on_body call nothing of the connection.
struct HttpHandlers {
  std::function<void(const HttpHead&)> on_head;
  std::function<bool(std::string_view)>
      on_body;                         // false: enough; the request ends well, the connection closes
  std::function<void(Status)> on_end;  // once, last; it may send the next request
};

class HttpConnection {
 public:
  // `addresses` come from resolve(url). The context outlives the connection.
  HttpConnection(boost::asio::io_context& io, Url url, std::vector<std::string> addresses,
                 HttpTimeouts timeouts);
  ~HttpConnection();  // a request in flight ends without a word
  HttpConnection(HttpConnection&&) noexcept = default;
  HttpConnection& operator=(HttpConnection&&) noexcept = default;

  // Connects when there is no open connection. One that the server closed while it was idle is opened again.
  // REQUIRES: no request is in flight.
  void send(const HttpRequest& request, HttpHandlers handlers);
  // The request in flight, if any, ends with kCancelled; its on_end is called from here.
  void cancel();

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace trireme::cli
