#include "server/openai/body.h"

#include <vector>

namespace trireme::server {
namespace {

constexpr int kMaxDepth = 64;
// An object that keeps the order of its keys looks each one up from its start, so its cost grows with the
// square of its keys. Their sum over all objects is bounded: room for one object of about 4,000 keys, or a
// thousand objects of a hundred.
constexpr std::size_t kMaxKeyWork = 16u << 20;
constexpr std::size_t kMaxValues = 1u << 20;

tl::unexpected<ApiError> refuse(std::string message) {
  return tl::unexpected(ApiError{400, std::move(message), "invalid_request_error", "", "invalid_json", 0});
}

// Also more values than any request has: each takes tens of bytes once it is parsed.
bool too_many_keys(std::string_view text) {
  std::size_t values = 0;
  std::vector<std::size_t> colons(1);  // of the objects that are open
  std::size_t work = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case ',':
        if (++values > kMaxValues) return true;
        break;
      case '{':
      case '[':
        if (++values > kMaxValues) return true;
        if (colons.size() > kMaxDepth + 1) return false;  // too deep: refused by the parser's own limit
        colons.push_back(0);
        break;
      case '}':
      case ']':
        if (colons.size() > 1) colons.pop_back();
        break;
      case ':':
        work += ++colons.back();
        if (work > kMaxKeyWork) return true;
        break;
      default:
        break;
    }
  }
  return false;
}

}  // namespace

ApiResult<OrderedJson> parse_body(std::string_view body) {
  if (body.empty()) return refuse("the request has no body; send a JSON object");
  if (too_many_keys(body)) return refuse("request body: too many keys or values");
  auto parsed =
      parse_ordered_json(body, "request body",
                         {.max_bytes = body.size(), .max_depth = kMaxDepth, .refuse_duplicate_keys = true});
  if (!parsed) return refuse(parsed.error().message);
  if (!parsed->is_object()) return refuse("request body: a JSON object is expected");
  return std::move(*parsed);
}

}  // namespace trireme::server
