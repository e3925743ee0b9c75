#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <charconv>

#include "base/log.h"
#include "cli/http_connection.h"

namespace trireme::cli {

std::string Url::authority() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

Result<Url> parse_url(std::string_view text) {
  const std::string shown = one_line(text);
  if (text.starts_with("https://")) {
    return fail(ErrorCode::kUnsupported,
                "{}: https is not supported; give an http:// address, for example of a local proxy that "
                "speaks TLS",
                shown);
  }
  for (const char c : text) {
    if (c <= 0x20 || c == 0x7f) return invalid("{}: a URL holds no spaces or control characters", shown);
  }
  if (text.starts_with("http://")) {
    text.remove_prefix(7);
  } else if (text.find("://") != std::string_view::npos) {
    return invalid("{}: not an http:// URL", shown);
  }
  Url out;
  const std::size_t slash = text.find_first_of("/?#");
  std::string_view authority = text.substr(0, slash);
  std::string_view path = slash == std::string_view::npos ? std::string_view() : text.substr(slash);
  if (path.find_first_of("?#") != std::string_view::npos) {
    return invalid("{}: give the address without ? and #", shown);
  }
  if (authority.find('@') != std::string_view::npos) {
    return invalid("{}: no user name in the address; use --api-key", shown);
  }
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path.ends_with("/v1")) path.remove_suffix(3);
  while (path.ends_with('/')) path.remove_suffix(1);
  out.prefix = path;

  std::string_view port;
  bool has_port = false;
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    if (end == std::string_view::npos) return invalid("{}: the [ of the IPv6 address is not closed", shown);
    out.host = authority.substr(1, end - 1);
    boost::system::error_code error;
    boost::asio::ip::make_address_v6(out.host, error);
    if (error) return invalid("{}: {} is not an IPv6 address", shown, one_line(out.host));
    const auto rest = authority.substr(end + 1);
    if (!rest.empty() && rest[0] != ':') return invalid("{}: after ] comes : and a port", shown);
    has_port = !rest.empty();
    if (has_port) port = rest.substr(1);
  } else {
    const std::size_t colon = authority.find(':');
    has_port = colon != std::string_view::npos;
    out.host = authority.substr(0, colon);
    if (has_port) port = authority.substr(colon + 1);
    if (port.find(':') != std::string_view::npos) {
      return invalid("{}: put an IPv6 address into brackets, as in http://[::1]:8000", shown);
    }
  }
  if (out.host.empty()) return invalid("{}: no host; a URL looks like http://127.0.0.1:8000", shown);
  if (has_port) {
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), out.port);
    if (error != std::errc() || end != port.data() + port.size() || out.port == 0) {
      return invalid("{}: the port must be a number from 1 to 65535", shown);
    }
  }
  return out;
}

Result<std::vector<std::string>> resolve(const Url& url) {
  boost::system::error_code error;
  const auto literal = boost::asio::ip::make_address(url.host, error);
  if (!error) return std::vector<std::string>{literal.to_string()};
  boost::asio::io_context io;
  boost::asio::ip::tcp::resolver resolver(io);
  const auto found = resolver.resolve(url.host, std::to_string(url.port), error);
  if (error) {
    return fail(ErrorCode::kUnavailable, "cannot find the host {}: {}; check the URL", one_line(url.host),
                error.message());
  }
  std::vector<std::string> out;
  for (const auto& entry : found) out.push_back(entry.endpoint().address().to_string());
  return out;
}

}  // namespace trireme::cli
