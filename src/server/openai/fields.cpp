#include "server/openai/fields.h"

#include <cmath>

namespace trireme::server {

std::string type_name(const OrderedJson& v) {
  if (v.is_null()) return "null";
  if (v.is_boolean()) return "a boolean";
  if (v.is_number_integer()) return "an integer";
  if (v.is_number()) return "a number";
  if (v.is_string()) return "a string";
  return v.is_array() ? "an array" : "an object";
}

std::optional<i64> whole_number(const OrderedJson& v) {
  if (v.is_number_unsigned()) {
    const auto n = v.get<u64>();
    if (n > static_cast<u64>(INT64_MAX)) return std::nullopt;
    return static_cast<i64>(n);
  }
  if (v.is_number_integer()) return v.get<i64>();
  if (v.is_number_float()) {
    const double d = v.get<double>();
    if (std::isfinite(d) && d == std::floor(d) && std::abs(d) < 0x1p63) return static_cast<i64>(d);
  }
  return std::nullopt;
}

const OrderedJson* Fields::find(std::string_view name) const {
  const auto it = object_.find(std::string(name));
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

tl::unexpected<ApiError> Fields::wrong_type(std::string_view name, std::string_view expected) const {
  const auto* value = find(name);
  const auto param = full(name);
  return bad_param(
      param, fmt::format("{}: {} is expected, not {}", param, expected, value ? type_name(*value) : "null"),
      "invalid_type");
}

ApiResult<std::optional<i64>> Fields::integer(std::string_view name, i64 low, i64 high) const {
  const auto* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_number()) return wrong_type(name, "an integer");
  const auto n = whole_number(*value);
  if (!n || *n < low || *n > high) {
    return bad_param(full(name), fmt::format("{}: {} is not an integer from {} to {}", full(name),
                                             value->dump(), low, high));
  }
  return *n;
}

ApiResult<std::optional<double>> Fields::number(std::string_view name, double low, double high,
                                                bool above_low) const {
  const auto* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_number()) return wrong_type(name, "a number");
  const double d = value->get<double>();
  if (!std::isfinite(d) || d < low || d > high || (above_low && d == low)) {
    return bad_param(full(name),
                     fmt::format("{}: {} is not a number {} {} {} {}", full(name), value->dump(),
                                 above_low ? "above" : "from", low, above_low ? "and up to" : "to", high));
  }
  return d;
}

ApiResult<std::optional<bool>> Fields::boolean(std::string_view name) const {
  const auto* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) return wrong_type(name, "true or false");
  return value->get<bool>();
}

ApiResult<std::optional<std::string>> Fields::text(std::string_view name, std::size_t max_bytes) const {
  const auto* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) return wrong_type(name, "a string");
  const auto& s = value->get_ref<const std::string&>();
  if (s.size() > max_bytes) {
    return bad_param(full(name),
                     fmt::format("{}: {} bytes; at most {} are allowed", full(name), s.size(), max_bytes));
  }
  return s;
}

ApiResult<std::vector<TokenId>> token_array(const OrderedJson& array, const std::string& param,
                                            std::size_t max_count, int vocab_size) {
  if (!array.is_array())
    return bad_param(param, fmt::format("{}: an array of token ids is expected", param), "invalid_type");
  if (array.size() > max_count) {
    return bad_param(param,
                     fmt::format("{}: {} token ids; at most {} are allowed", param, array.size(), max_count));
  }
  std::vector<TokenId> ids;
  ids.reserve(array.size());
  for (const auto& value : array) {
    const auto id = whole_number(value);
    if (!value.is_number() || !id || *id < 0 || *id >= vocab_size) {
      return bad_param(param,
                       fmt::format("{}: a token id is an integer from 0 to {}", param, vocab_size - 1));
    }
    ids.push_back(static_cast<TokenId>(*id));
  }
  return ids;
}

ApiResult<std::optional<std::vector<TokenId>>> Fields::tokens(std::string_view name, std::size_t max_count,
                                                              int vocab_size) const {
  const auto* value = find(name);
  if (!value) return std::nullopt;
  ASSIGN(auto ids, token_array(*value, full(name), max_count, vocab_size));
  return ids;
}

}  // namespace trireme::server
