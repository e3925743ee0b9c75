// Token ids of one stream to text, as early as it is certain: never half a character, and in sum exactly what
// Tokenizer::decode gives for all ids. Not thread-safe: one per stream.
#pragma once
#include <string>

#include "text/tokenizer.h"

namespace trireme::text {

class Detokenizer {
 public:
  // REQUIRES: the tokenizer outlives this.
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true);

  // The text that this token makes certain; maybe "".
  std::string push(TokenId id);
  // What is left at the end of the stream: U+FFFD for an unfinished character.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  int strip_;            // leading spaces that may still be left out
  std::string pending_;  // the start of a character, at most 3 bytes
};

}  // namespace trireme::text
