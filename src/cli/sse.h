// Server-sent events, and what a chunk of an OpenAI stream holds, found without parsing its JSON.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace trireme::cli {

// Bytes of a `text/event-stream` body in, the data of its events out, however the bytes are split. Lines end
// in LF, CRLF or CR; comments and fields other than data are skipped. Source: WHATWG HTML, "Server-sent
// events". Not thread-safe.
class SseParser {
 public:
  using Sink = std::function<void(std::string_view data)>;
  explicit SseParser(std::size_t max_event_bytes = 16u << 20) : max_bytes_(max_event_bytes) {}

  // Calls the sink for every event that these bytes complete. kDataLoss when an event is larger than allowed.
  Status push(std::string_view bytes, const Sink& sink);

 private:
  Status take_line(std::string_view line, const Sink& sink);

  std::size_t max_bytes_;
  std::string line_;  // the start of a line that has not ended
  std::string data_;
  bool has_data_ = false;
  bool after_cr_ = false;  // an LF that comes now belongs to the CR before it
  bool first_line_ = true;
};

// What a chunk of /v1/chat/completions or /v1/completions holds. A scan for unescaped keys, so that a load
// generator can read tens of thousands of chunks a second.
struct ChunkSight {
  bool text = false;   // some output: a non-empty "content", "text" or "reasoning_content"
  bool usage = false;  // a "usage" object
  bool error = false;  // an "error" that is not null
};
ChunkSight look_at_chunk(std::string_view json);

}  // namespace trireme::cli
