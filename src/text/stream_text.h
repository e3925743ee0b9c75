// The text of one generated sequence: its tokens become text, stop strings end it. Not thread-safe: one per
// sequence.
#pragma once
#include <string>

#include "text/detokenizer.h"
#include "text/stop_matcher.h"

namespace trireme::text {

struct Piece {
  std::string text;         // new output, maybe ""
  bool stopped = false;     // a stop string ended the sequence; tokens after it give nothing
  std::string stop_reason;  // that stop string
};

class StreamText {
 public:
  // REQUIRES: stops.validate() is fine, and the tokenizer outlives this.
  StreamText(const Tokenizer& tokenizer, StopOptions stops, bool skip_special = true)
      : detokenizer_(tokenizer, skip_special), stops_(std::move(stops)) {}

  Piece push(TokenId id) { return piece(stops_.push(detokenizer_.push(id))); }
  // The end of the sequence for another reason: what was held back. May still complete a stop string.
  Piece finish() {
    std::string text = stops_.push(detokenizer_.flush());
    text += stops_.flush();
    return piece(std::move(text));
  }

 private:
  Piece piece(std::string text) const {
    const auto& by = stops_.stopped_by();
    return {std::move(text), by.has_value(), by.value_or(std::string())};
  }

  Detokenizer detokenizer_;
  StopMatcher stops_;
};

}  // namespace trireme::text
