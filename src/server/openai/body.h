// A request's body as JSON, bounded in every direction that could cost more than its bytes.
#pragma once
#include <string_view>

#include "base/json.h"
#include "server/openai/api_error.h"

namespace trireme::server {

// An object, at most 64 deep, valid UTF-8, without duplicate keys.
ApiResult<OrderedJson> parse_body(std::string_view body);

}  // namespace trireme::server
