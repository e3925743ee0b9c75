#include "server/auth.h"

#include <fmt/format.h>

#include <cstdint>

namespace trireme::server {
namespace {

bool has_scheme(std::string_view header, std::string_view lower_scheme) {
  if (header.size() <= lower_scheme.size() || header[lower_scheme.size()] != ' ') return false;
  for (std::size_t i = 0; i < lower_scheme.size(); ++i) {
    if ((header[i] | 0x20) != lower_scheme[i]) return false;
  }
  return true;
}

std::string decode_base64(std::string_view text) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    const auto value = kAlphabet.find(c);
    if (value == std::string_view::npos) break;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    have += 6;
    if (have >= 8) {
      have -= 8;
      out += static_cast<char>(bits >> have & 0xff);
    }
  }
  return out;
}

}  // namespace

bool equal_in_constant_time(std::string_view given, std::string_view secret) {
  volatile unsigned char difference = given.size() == secret.size() ? 0 : 1;
  for (std::size_t i = 0, j = 0; i < given.size(); ++i) {
    difference = static_cast<unsigned char>(difference | (given[i] ^ secret[j]));
    j = j + 1 == secret.size() ? 0 : j + 1;
  }
  return difference == 0;
}

std::optional<std::string> Auth::tenant(std::string_view authorization, bool basic) const {
  std::string given;
  if (has_scheme(authorization, "bearer")) {
    given = authorization.substr(7);
  } else if (basic && has_scheme(authorization, "basic")) {
    const auto pair = decode_base64(authorization.substr(6));
    const auto colon = pair.find(':');
    if (colon != std::string::npos) given = pair.substr(colon + 1);
  }
  const auto start = given.find_first_not_of(' ');
  given.erase(0, start == std::string::npos ? given.size() : start);
  std::optional<std::size_t> found;
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    if (equal_in_constant_time(given, keys_[i]) && !found) found = i;
  }
  if (!found) return std::nullopt;
  return fmt::format("key-{}", *found);
}

}  // namespace trireme::server
