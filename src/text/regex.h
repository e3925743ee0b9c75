// One split pattern of a tokenizer, run by PCRE2 with bounded backtracking. Patterns are written for
// Oniguruma; where its \s differs from PCRE2's (U+180E), \s is spelled out. Thread-safe after compile.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/types.h"

namespace trireme::text {

class Regex {
 public:
  static Result<Regex> compile(std::string_view pattern);
  // A pattern that matches exactly this string.
  static Result<Regex> literal(std::string_view text);

  // Calls visit(begin, end) for every match, left to right, without overlaps; empty matches are passed over.
  // Fails when the pattern backtracks beyond its bound. REQUIRES: valid UTF-8.
  Status for_each(std::string_view text, const std::function<void(std::size_t, std::size_t)>& visit) const;

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static Result<Regex> compile_pcre(const std::string& pattern, u32 options);

  std::shared_ptr<const Code> code_;
};

}  // namespace trireme::text
