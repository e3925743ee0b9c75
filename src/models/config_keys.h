// Reads the keys of one JSON object and remembers the first thing that is wrong. Every value is bounded; a
// null counts as missing, as Hugging Face writes it. After an error every call returns its lower bound or
// its fallback, so that a parser may go on and ask for the error once, at its end. Not thread-safe.
#pragma once
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/json.h"
#include "base/log.h"
#include "base/types.h"

namespace trireme::models {

class Keys {
 public:
  // REQUIRES: json is an object, and outlives this.
  Keys(const Json& json, std::string what) : json_(json), what_(std::move(what)) {}

  const Json* find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  i64 integer(const char* key, i64 low, i64 high, std::optional<i64> fallback = {}) {
    const Json* v = find(key);
    if (!v) return fallback ? *fallback : missing(key, low);
    const bool fits =
        v->is_number_unsigned() ? v->get<u64>() <= static_cast<u64>(INT64_MAX) : v->is_number_integer();
    if (fits && v->get<i64>() >= low && v->get<i64>() <= high) return v->get<i64>();
    wrong(key, fmt::format("an integer from {} to {}", low, high));
    return low;
  }
  double real(const char* key, double low, double high, std::optional<double> fallback = {}) {
    const Json* v = find(key);
    if (!v) return fallback ? *fallback : missing(key, low);
    const double d = v->is_number() ? v->get<double>() : std::nan("");
    if (std::isfinite(d) && d >= low && d <= high) return d;
    wrong(key, fmt::format("a number from {} to {}", low, high));
    return low;
  }
  bool flag(const char* key, bool fallback) {
    const Json* v = find(key);
    if (!v) return fallback;
    if (v->is_boolean()) return v->get<bool>();
    wrong(key, "true or false");
    return fallback;
  }
  std::string text(const char* key, std::string_view fallback) {
    const Json* v = find(key);
    if (!v) return std::string(fallback);
    if (v->is_string()) return v->get<std::string>();
    wrong(key, "a string");
    return std::string(fallback);
  }

  void wrong(const char* key, std::string_view expected) {
    const Json* v = find(key);
    set(ErrorCode::kInvalidArgument, fmt::format("{}: \"{}\" must be {}, not {}", what_, key, expected,
                                                 v ? one_line(to_text(*v), 64) : "missing"));
  }
  void unsupported(const char* key, std::string_view supported) {
    const Json* v = find(key);
    set(ErrorCode::kUnsupported, fmt::format("{}: \"{}\" is {}, which is not supported ({})", what_, key,
                                             v ? one_line(to_text(*v), 64) : "missing", supported));
  }
  void at_odds(std::string_view why) { set(ErrorCode::kInvalidArgument, fmt::format("{}: {}", what_, why)); }
  void set(ErrorCode code, std::string message) {
    if (!error_) error_ = Error{code, std::move(message)};
  }
  Status status() const {
    if (error_) return tl::unexpected(*error_);
    return {};
  }
  bool ok() const { return !error_; }
  const Json& json() const { return json_; }
  const std::string& what() const { return what_; }

 private:
  template <class T>
  T missing(const char* key, T low) {
    set(ErrorCode::kInvalidArgument, fmt::format("{}: the key \"{}\" is missing", what_, key));
    return low;
  }

  const Json& json_;
  std::string what_;
  std::optional<Error> error_;
};

}  // namespace trireme::models
