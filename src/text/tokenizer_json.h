// Reads tokenizer.json into a Tokenizer. Component types that are not known are refused by name.
#pragma once
#include "text/tokenizer.h"

namespace trireme::text {

struct TokenizerJson {
  static Result<std::unique_ptr<Tokenizer>> read(std::string_view text);
};

}  // namespace trireme::text
