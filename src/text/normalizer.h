// The "normalizer" of tokenizer.json: null, NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence. Thread-safe
// after parse.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "text/regex.h"

struct UNormalizer2;

namespace trireme::text {

// Replaces every match of `pattern` by `with`.
struct Replacement {
  Regex pattern;
  std::string with;
  // {"pattern": {"String"|"Regex": ...}, "content": ...}; `what` names the component in errors.
  static Result<Replacement> parse(const Json& json, std::string_view what);
  Result<std::string> apply(std::string_view text) const;
};
// {"String": s} or {"Regex": r}.
Result<Regex> parse_pattern(const Json& json, std::string_view what);

class Normalizer {
 public:
  static Result<Normalizer> parse(const Json& json);
  bool identity() const { return steps_.empty(); }
  Result<std::string> apply(std::string_view text) const;

 private:
  struct Step {
    const UNormalizer2* form = nullptr;  // a Unicode normal form, or
    std::string prepend;                 // text put before, or
    std::vector<Replacement> replace;    // one replacement
  };
  Status add(const Json& json, int depth);

  std::vector<Step> steps_;
};

}  // namespace trireme::text
