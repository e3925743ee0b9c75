// Reads named members of a request's JSON object. An absent member and null are both "not given"; a wrong
// type or a value out of bounds is an error that names the member.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/types.h"
#include "server/openai/api_error.h"

namespace trireme::server {

class Fields {
 public:
  // `path` stands before the names in messages, as in "messages[3].".
  explicit Fields(const OrderedJson& object, std::string path = {})
      : object_(object), path_(std::move(path)) {}

  const OrderedJson* find(std::string_view name) const;  // nullptr: not given
  ApiResult<std::optional<i64>> integer(std::string_view name, i64 low, i64 high) const;
  // In [low, high], or in (low, high] when `above_low`.
  ApiResult<std::optional<double>> number(std::string_view name, double low, double high,
                                          bool above_low = false) const;
  ApiResult<std::optional<bool>> boolean(std::string_view name) const;
  ApiResult<std::optional<std::string>> text(std::string_view name, std::size_t max_bytes) const;
  // Token ids in [0, vocab_size).
  ApiResult<std::optional<std::vector<TokenId>>> tokens(std::string_view name, std::size_t max_count,
                                                        int vocab_size) const;

  tl::unexpected<ApiError> wrong_type(std::string_view name, std::string_view expected) const;
  std::string full(std::string_view name) const { return path_ + std::string(name); }

 private:
  const OrderedJson& object_;
  std::string path_;
};

// A whole number, also when written as 16.0; none for anything else and for what i64 cannot hold.
std::optional<i64> whole_number(const OrderedJson& value);
std::string type_name(const OrderedJson& value);
ApiResult<std::vector<TokenId>> token_array(const OrderedJson& array, const std::string& param,
                                            std::size_t max_count, int vocab_size);

}  // namespace trireme::server
