// The "pre_tokenizer" of tokenizer.json: cuts text into the words that BPE sees. Sequence, Split, ByteLevel,
// Digits, Metaspace. Well-known pattern lists run as scanners, others through PCRE2. Thread-safe after parse.
#pragma once
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/scanner.h"

namespace trireme::text {

// Words are views of the input or of `made`.
struct Pieces {
  std::vector<std::string_view> words;
  std::deque<std::string> made;
};

struct PreTokenStep {
  virtual ~PreTokenStep() = default;
  // `first`: the piece starts the whole text.
  virtual Status apply(std::string_view piece, bool first, Pieces& out) const = 0;
};

class PreTokenizer {
 public:
  // use_scanners: false runs every pattern through PCRE2, for tests.
  static Result<PreTokenizer> parse(const Json& json, bool use_scanners = true);

  // The scanner that stands for all steps, if there is one: then split() is not needed.
  std::optional<ScannerKind> scanner() const { return scanner_; }
  // Whether words are spelled in bytes (a ByteLevel step is present).
  bool byte_level() const { return byte_level_; }
  // Whether text is one word as it is.
  bool whole() const { return steps_.empty(); }
  // `first`: the chunk is at the start of the text, not after an added token.
  Status split(std::string_view chunk, bool first, Pieces& out) const;

 private:
  Status add(const Json& json, int depth);
  Status add_split(const Json& json);
  void recognise();

  std::vector<std::shared_ptr<const PreTokenStep>> steps_;
  std::vector<std::string> isolated_patterns_;  // of the steps, as long as they are plain isolating Splits
  bool plain_ = true;
  bool byte_level_ = false;
  std::optional<ScannerKind> scanner_;
};

}  // namespace trireme::text
