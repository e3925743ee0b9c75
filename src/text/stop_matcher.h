// Finds stop strings in a stream of text, also across its pieces: text that may be the start of a stop string
// is held back until it is certain. Not thread-safe: one per stream.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace trireme::text {

struct StopOptions {
  static constexpr std::size_t kMaxStrings = 64, kMaxBytes = 4096;  // of them, and of each

  std::vector<std::string> strings;
  bool include_in_output = false;  // include_stop_str_in_output
  // kInvalidArgument for too many, an empty or a too long one, or one that is not UTF-8.
  Status validate() const;
};

class StopMatcher {
 public:
  // REQUIRES: options.validate() is fine.
  explicit StopMatcher(StopOptions options);

  // Text that is certain to be output. After a stop it is "" forever.
  std::string push(std::string_view text);
  // What was held back, at the end of a stream that did not stop.
  std::string flush();
  // The string that ended the stream: the one whose end comes first; of those the one that starts first.
  const std::optional<std::string>& stopped_by() const { return stopped_by_; }

 private:
  StopOptions options_;
  std::vector<std::vector<std::size_t>>
      borders_;                       // per string, by prefix length: its longest border (Morris-Pratt)
  std::vector<std::size_t> matched_;  // per string: bytes of it that end the text so far
  std::string held_;
  std::optional<std::string> stopped_by_;
};

}  // namespace trireme::text
