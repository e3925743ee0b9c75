// UTF-8 and the Unicode classes that pre-tokenizers ask for. All functions are pure and thread-safe.
#pragma once
#include <array>
#include <string>
#include <string_view>

#include "base/types.h"

namespace trireme::text {

constexpr u32 kReplacement = 0xFFFD;
constexpr u32 kMaxCodePoint = 0x10FFFF;
constexpr std::string_view kReplacementUtf8 = "\xEF\xBF\xBD";

bool valid_utf8(std::string_view text);

struct CodePoint {
  u32 value;
  u32 bytes;  // 1..4
};
// REQUIRES: pos < text.size(). Bytes that are not UTF-8 give U+FFFD over their maximal subpart (Unicode 15,
// section 3.9, table 3-8), at least one byte.
CodePoint decode_at(std::string_view text, std::size_t pos);
void append_utf8(std::string& out, u32 code_point);

// Every maximal ill-formed subpart becomes one U+FFFD.
std::string lossy_utf8(std::string_view bytes);
// How many bytes at the end of `bytes` are a proper prefix of a character and may yet be completed: 0..3.
std::size_t incomplete_tail(std::string_view bytes);

std::size_t count_code_points(std::string_view text);

// Classes are bits, so that a set of classes is one mask.
enum CharClass : u8 {
  kLetter = 1,       // L*
  kMark = 2,         // M*
  kNumber = 4,       // N*
  kPunctuation = 8,  // P*
  kSymbol = 16,      // S*
  kSpace = 32,       // White_Space
  kNewline = 64,     // \r and \n, which are kSpace too
  kCjk = 128,        // U+4E00..9FA5 and U+3040..30FF: the class that DeepSeek's second split isolates
};
// One byte of CharClass bits for every code point, made from ICU on first use.
class CharTable {
 public:
  static const CharTable& instance();
  u8 operator[](u32 code_point) const { return bits_[code_point]; }

 private:
  CharTable();
  std::array<u8, kMaxCodePoint + 1> bits_{};
};

bool is_space(u32 code_point);

}  // namespace trireme::text
