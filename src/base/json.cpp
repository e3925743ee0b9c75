#include "base/json.h"

#include <fstream>
#include <set>
#include <vector>

namespace trireme {
namespace {

template <class J>
Result<J> parse(std::string_view text, std::string_view what, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return invalid("{}: {} bytes of JSON; at most {} are allowed", what, text.size(), limits.max_bytes);
  }
  // nlohmann's parser keeps its own stack on the heap, but the value it builds is destroyed by recursion:
  // depth is refused while parsing.
  bool too_deep = false;
  std::string duplicate;
  std::vector<std::set<std::string>> keys;
  typename J::parser_callback_t callback = [&](int depth, typename J::parse_event_t event, J& parsed) {
    using Event = typename J::parse_event_t;
    if (depth > limits.max_depth) {
      too_deep = true;
      return false;
    }
    if (!limits.refuse_duplicate_keys) return true;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end && !keys.empty()) keys.pop_back();
    if (event == Event::key && !keys.empty()) {
      auto name = parsed.template get<std::string>();
      if (!keys.back().insert(name).second && duplicate.empty()) duplicate = name;
    }
    return true;
  };
  // A cheap look before parsing: text nested deeper than the limit never reaches the parser.
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limits.max_depth) {
        return invalid("{}: JSON nested deeper than {} levels", what, limits.max_depth);
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  J value;
  try {
    value = J::parse(text.begin(), text.end(), callback, true, false);
  } catch (const typename J::exception& e) {
    // The parser quotes the text it stumbled over, however long it is.
    return invalid("{}: not valid JSON: {}", what, std::string_view(e.what()).substr(0, 200));
  }
  if (too_deep) return invalid("{}: JSON nested deeper than {} levels", what, limits.max_depth);
  if (!duplicate.empty())
    return invalid("{}: the key \"{}\" stands twice in one object", what, duplicate.substr(0, 64));
  return value;
}

template <class J>
std::string dump(const J& value) {
  return value.dump(-1, ' ', false, J::error_handler_t::replace);
}

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view what, const JsonLimits& limits) {
  return parse<Json>(text, what, limits);
}

Result<OrderedJson> parse_ordered_json(std::string_view text, std::string_view what,
                                       const JsonLimits& limits) {
  return parse<OrderedJson>(text, what, limits);
}

Result<std::string> read_text_file(const std::string& path, std::size_t max_bytes) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail(ErrorCode::kNotFound, "cannot open {}", path);
  in.seekg(0, std::ios::end);
  const auto size = in.tellg();
  if (size < 0) return fail(ErrorCode::kNotFound, "cannot read {}: not a regular file", path);
  if (static_cast<std::size_t>(size) > max_bytes) {
    return invalid("{} has {} bytes; at most {} are read", path, static_cast<long long>(size), max_bytes);
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  in.seekg(0);
  in.read(text.data(), size);
  if (in.gcount() != size) return fail(ErrorCode::kDataLoss, "{}: could not be read to its end", path);
  return text;
}

Result<Json> read_json_file(const std::string& path, const JsonLimits& limits) {
  ASSIGN(auto text, read_text_file(path, limits.max_bytes));
  return parse_json(text, path, limits);
}

std::string to_text(const Json& value) { return dump(value); }
std::string to_text(const OrderedJson& value) { return dump(value); }

}  // namespace trireme
