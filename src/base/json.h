// JSON that may come from anyone: bounded in bytes and depth, duplicate keys and bad UTF-8 refused.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace trireme {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // keeps the order of keys, as chat templates need

struct JsonLimits {
  std::size_t max_bytes = 64u << 20;
  int max_depth = 64;
  bool refuse_duplicate_keys = true;
};

// `what` names the source in the error message ("request body", "config.json").
Result<Json> parse_json(std::string_view text, std::string_view what, const JsonLimits& limits = {});
Result<OrderedJson> parse_ordered_json(std::string_view text, std::string_view what,
                                       const JsonLimits& limits = {});

// Reads a whole file of at most limits.max_bytes and parses it.
Result<Json> read_json_file(const std::string& path, const JsonLimits& limits = {});
Result<std::string> read_text_file(const std::string& path, std::size_t max_bytes = 64u << 20);

// Compact text of a value; bytes that are not UTF-8 become U+FFFD, so that it never fails.
std::string to_text(const Json& value);
std::string to_text(const OrderedJson& value);

}  // namespace trireme
