// Who a request comes from, by its API key.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trireme::server {

// Immutable, so thread-safe.
class Auth {
 public:
  explicit Auth(std::vector<std::string> keys) : keys_(std::move(keys)) {}

  bool required() const { return !keys_.empty(); }
  // The tenant that an Authorization header names: "key-0" for the first key, and so on; nothing when it
  // holds none of the keys. `basic` also takes a browser's own sign-in, with a key as the password. The time
  // it takes depends on the header's length only.
  std::optional<std::string> tenant(std::string_view authorization, bool basic) const;

 private:
  std::vector<std::string> keys_;
};

// In a time that depends on the length of `given` only. REQUIRES: `secret` is not empty.
bool equal_in_constant_time(std::string_view given, std::string_view secret);

}  // namespace trireme::server
