// Hand-written equivalents of the split patterns that most checkpoints use. Each must cut text exactly as its
// regular expressions do; scanner_test.cpp holds them against PCRE2.
#pragma once
#include <span>
#include <string_view>

#include "base/types.h"
#include "text/unicode.h"

namespace trireme::text {

enum class ScannerKind {
  kDeepSeekV3,  // three Splits: numbers, CJK, words
  kGpt2,        // also what ByteLevel with use_regex does
  kCl100k,      // Llama-3: up to three digits together
  kQwen2,       // as Llama-3, each digit alone
};

// The regular expressions that a scanner stands for, applied in order, each Isolated.
std::span<const std::string_view> patterns_of(ScannerKind kind);

// Writes the ends of the next words from `pos` on to `ends`, as many as fit, and moves pos to the last end.
// Words cover the text without gaps. Returns their number: 0 at the end of the text. REQUIRES: valid UTF-8.
std::size_t scan(ScannerKind kind, std::string_view text, std::size_t& pos, std::span<std::size_t> ends);

}  // namespace trireme::text
