// Cuts a template into text and the tokens of its tags, with the white space rules of trim_blocks and
// lstrip_blocks.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace trireme::text::jinja {

enum class TokenType {
  kText,
  kBlockBegin,
  kBlockEnd,
  kOutputBegin,
  kOutputEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenType type;
  std::string text;  // of a string: its value
  int line = 0;
};

// Raises TemplateError.
std::vector<Token> lex(std::string_view source);

}  // namespace trireme::text::jinja
