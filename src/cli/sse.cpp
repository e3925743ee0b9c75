#include "cli/sse.h"

namespace trireme::cli {
namespace {

// What stands behind `"key":`, spaces skipped; empty when the key is not there. An escaped quote before the
// colon, as in a key quoted inside a string, does not match.
std::string_view value_of(std::string_view json, std::string_view quoted_key) {
  for (std::size_t at = json.find(quoted_key); at != std::string_view::npos;
       at = json.find(quoted_key, at + 1)) {
    std::size_t i = at + quoted_key.size();
    while (i < json.size() && json[i] == ' ') ++i;
    if (i == json.size() || json[i] != ':') continue;
    ++i;
    while (i < json.size() && json[i] == ' ') ++i;
    return json.substr(i);
  }
  return {};
}

bool is_text(std::string_view value) { return value.size() >= 2 && value[0] == '"' && value[1] != '"'; }

}  // namespace

Status SseParser::take_line(std::string_view line, const Sink& sink) {
  if (first_line_) {
    first_line_ = false;
    if (line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);
  }
  if (line.empty()) {
    if (has_data_) sink(data_);
    data_.clear();
    has_data_ = false;
    return {};
  }
  const std::size_t colon = line.find(':');
  if (line.substr(0, colon) != "data") return {};
  std::string_view value = colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (data_.size() + value.size() >= max_bytes_) {
    return fail(ErrorCode::kDataLoss, "the server sent an event of more than {} bytes", max_bytes_);
  }
  if (has_data_) data_ += '\n';
  data_ += value;
  has_data_ = true;
  return {};
}

Status SseParser::push(std::string_view bytes, const Sink& sink) {
  while (!bytes.empty()) {
    if (after_cr_) {
      after_cr_ = false;
      if (bytes[0] == '\n') {
        bytes.remove_prefix(1);
        continue;
      }
    }
    const std::size_t end = bytes.find_first_of("\r\n");
    if (end == std::string_view::npos) {
      if (line_.size() + bytes.size() > max_bytes_) {
        return fail(ErrorCode::kDataLoss, "the server sent a line of more than {} bytes", max_bytes_);
      }
      line_ += bytes;
      return {};
    }
    after_cr_ = bytes[end] == '\r';
    if (line_.empty()) {
      TRY(take_line(bytes.substr(0, end), sink));
    } else {
      line_ += bytes.substr(0, end);
      TRY(take_line(line_, sink));
      line_.clear();
    }
    bytes.remove_prefix(end + 1);
  }
  return {};
}

ChunkSight look_at_chunk(std::string_view json) {
  ChunkSight out;
  out.text = is_text(value_of(json, R"("content")")) || is_text(value_of(json, R"("text")")) ||
             is_text(value_of(json, R"("reasoning_content")"));
  out.usage = value_of(json, R"("usage")").starts_with('{');
  const auto error = value_of(json, R"("error")");
  out.error = !error.empty() && !error.starts_with("null");
  return out;
}

}  // namespace trireme::cli
