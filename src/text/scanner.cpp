#include "text/scanner.h"

#include <array>
#include <bit>
#include <cstring>

namespace trireme::text {
namespace {

constexpr std::array<std::string_view, 3> kDeepSeekPatterns = {
    R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::array<std::string_view, 1> kGpt2Patterns = {
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"};
constexpr std::array<std::string_view, 1> kCl100kPatterns = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr std::array<std::string_view, 1> kQwen2Patterns = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

struct AsciiClasses {
  std::array<u8, 128> bits{};
  constexpr AsciiClasses() {
    for (int c = 0; c < 128; ++c) bits[static_cast<std::size_t>(c)] = classify(c);
  }
  static constexpr u8 classify(int c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return kLetter;
    if (c >= '0' && c <= '9') return kNumber;
    if (c == '\r' || c == '\n') return kSpace | kNewline;
    if (c == ' ' || (c >= 9 && c <= 13)) return kSpace;
    if (c < 33 || c == 127) return 0;
    if (c == '$' || c == '+' || c == '<' || c == '=' || c == '>' || c == '^' || c == '`' || c == '|' ||
        c == '~') {
      return kSymbol;
    }
    return kPunctuation;
  }
};
constexpr AsciiClasses kAscii;

// Bits set at the bytes of `word` that are ASCII letters (0x80 in each).
constexpr u64 letters_of(u64 word) {
  constexpr u64 kOnes = 0x0101010101010101ULL;
  const u64 low7 = (word | 0x20 * kOnes) & 0x7F * kOnes;
  const u64 from_a = low7 + (0x80 - 'a') * kOnes;
  const u64 past_z = low7 + (0x80 - 'z' - 1) * kOnes;
  return from_a & ~past_z & ~word & 0x80 * kOnes;
}

// What a scanner sees of the class kCjk.
enum class View {
  kPlain,  // nothing
  kCut,    // these code points have that class and no other: runs and lookaheads end at them, as at a piece's
           // end
  kInside,  // only these code points; all others are kNumber, where runs and lookaheads end too
};

// A view of the text by classes.
template <View kView>
struct Text {
  const char* p;
  std::size_t size;
  const CharTable& table;

  struct Char {
    u8 bits;
    u8 bytes;
  };
  Char at(std::size_t i) const {
    const u8 b = static_cast<u8>(p[i]);
    if (b < 0x80) return {kView == View::kInside ? u8{kNumber} : kAscii.bits[b], 1};
    return beyond_ascii(i);
  }
  Char beyond_ascii(std::size_t i) const {
    const CodePoint c = decode_at({p, size}, i);
    const u8 bits = table[c.value];
    const u8 bytes = static_cast<u8>(c.bytes);
    const bool cjk = (bits & kCjk) != 0;
    if (kView == View::kCut && cjk) return {kCjk, bytes};
    if (kView == View::kInside && !cjk) return {kNumber, bytes};
    return {static_cast<u8>(bits & ~kCjk), bytes};
  }
  bool is(std::size_t i, u8 mask) const { return i < size && (at(i).bits & mask) != 0; }
  // The end of the run of characters in (or not in) `mask` that starts at i.
  std::size_t run(std::size_t i, u8 mask) const {
    while (i < size) {
      const Char c = at(i);
      if ((c.bits & mask) == 0) break;
      i += c.bytes;
    }
    return i;
  }
  std::size_t run_without(std::size_t i, u8 mask) const {
    while (i < size) {
      const Char c = at(i);
      if ((c.bits & mask) != 0) break;
      i += c.bytes;
    }
    return i;
  }
  std::size_t ascii_letters(std::size_t i) const {
    while (i + 8 <= size) {
      u64 word;
      std::memcpy(&word, p + i, 8);
      const u64 others = ~letters_of(word) & 0x8080808080808080ULL;
      if (others != 0) return i + static_cast<std::size_t>(std::countr_zero(others)) / 8;
      i += 8;
    }
    while (i < size && (kAscii.bits[static_cast<u8>(p[i]) & 0x7F] & kLetter) && static_cast<u8>(p[i]) < 0x80)
      ++i;
    return i;
  }
  std::size_t letters(std::size_t i, u8 mask) const {
    if constexpr (kView == View::kInside) return run(i, mask);
    i = ascii_letters(i);
    if (i < size && static_cast<u8>(p[i]) >= 0x80) return run(i, mask);
    return i;
  }
  std::size_t newlines(std::size_t i) const {
    while (kView != View::kInside && i < size && (p[i] == '\r' || p[i] == '\n')) ++i;
    return i;
  }
  std::size_t numbers(std::size_t i, int most) const {
    for (int n = 0; n < most && i < size; ++n) {
      const Char c = at(i);
      if ((c.bits & kNumber) == 0) break;
      i += c.bytes;
    }
    return i;
  }
  // \s*[\r\n]+ (if newlines_first), then \s+(?!\S), then \s+. REQUIRES: white space at i.
  // ends_at: the classes that end a piece, so that white space before them is not followed by anything.
  std::size_t white_space(std::size_t i, bool newlines_first, u8 ends_at) const {
    std::size_t end = i, last = i, after_newline = 0;
    while (end < size) {
      const Char c = at(end);
      if ((c.bits & kSpace) == 0) break;
      last = end;
      end += c.bytes;
      if (c.bits & kNewline) after_newline = end;
    }
    if (newlines_first && after_newline != 0) return after_newline;
    if (end == size || last == i || is(end, ends_at)) return end;
    return last;
  }
};

template <View kView>
std::size_t next_deepseek(const Text<kView>& t, std::size_t i) {
  constexpr u8 kWord = kLetter | kMark, kSigns = kPunctuation | kSymbol, kStop = kNumber | kCjk;
  const auto c = t.at(i);
  if (c.bits & kWord) return t.letters(i, kWord);
  const std::size_t next = i + c.bytes;
  if (c.bits & kNumber) return t.numbers(next, 2);
  // The third pattern cuts the pieces of the second one once more.
  if (c.bits & kCjk) return next_deepseek(Text<View::kInside>{t.p, t.size, t.table}, i);
  if (c.bits & kSigns) {
    if (static_cast<u8>(t.p[i]) < 0x80) {
      const std::size_t end = t.ascii_letters(next);
      if (end != next) return end;
    }
    return t.newlines(t.run(next, kSigns));
  }
  if (next < t.size && !(c.bits & kNewline)) {
    const auto d = t.at(next);
    if (d.bits & kWord) return t.letters(next, kWord);
    if (t.p[i] == ' ' && (d.bits & kSigns)) return t.newlines(t.run(next + d.bytes, kSigns));
  }
  if (c.bits & kSpace) return t.white_space(i, true, kStop);
  // No alternative matches here: everything up to the next match is one piece.
  std::size_t end = next;
  while (end < t.size) {
    const auto d = t.at(end);
    if (d.bits != 0 || t.is(end + d.bytes, kWord)) break;
    end += d.bytes;
  }
  return end;
}

std::size_t contraction(std::string_view text, std::size_t i, bool any_case) {
  if (i + 1 >= text.size()) return 0;
  const auto letter = [&](std::size_t at) -> char {
    if (at >= text.size()) return 0;
    const char c = text[at];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char a = letter(i + 1), b = letter(i + 2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
  // U+017F folds to s.
  if (any_case && text.substr(i + 1).starts_with("\xC5\xBF")) return i + 3;
  return 0;
}

std::size_t next_gpt2(const Text<View::kPlain>& t, std::size_t i) {
  constexpr u8 kNotSigns = kSpace | kLetter | kNumber;
  if (t.p[i] == '\'') {
    if (const std::size_t end = contraction({t.p, t.size}, i, false)) return end;
  }
  const std::size_t from = t.p[i] == ' ' && i + 1 < t.size && !t.is(i + 1, kSpace) ? i + 1 : i;
  const auto c = t.at(from);
  if (c.bits & kLetter) return t.letters(from, kLetter);
  if (c.bits & kNumber) return t.run(from, kNumber);
  if (c.bits & kSpace) return t.white_space(i, false, 0);
  return t.run_without(from, kNotSigns);
}

template <int kDigits>
std::size_t next_cl100k(const Text<View::kPlain>& t, std::size_t i) {
  constexpr u8 kNotSigns = kSpace | kLetter | kNumber;
  const auto c = t.at(i);
  if (c.bits & kLetter) return t.letters(i, kLetter);
  if (c.bits & kNumber) return t.numbers(i, kDigits);
  if (t.p[i] == '\'') {
    if (const std::size_t end = contraction({t.p, t.size}, i, true)) return end;
  }
  const std::size_t next = i + c.bytes;
  if (next < t.size && !(c.bits & kNewline)) {
    const auto d = t.at(next);
    if (d.bits & kLetter) return t.letters(next, kLetter);
    if (t.p[i] == ' ' && !(d.bits & kNotSigns)) return t.newlines(t.run_without(next, kNotSigns));
  }
  if (c.bits & kSpace) return t.white_space(i, true, 0);
  return t.newlines(t.run_without(i, kNotSigns));
}

template <class View, class Next>
std::size_t fill(std::string_view text, std::size_t& pos, std::span<std::size_t> ends, Next next) {
  const View view{text.data(), text.size(), CharTable::instance()};
  std::size_t n = 0, at = pos;
  while (n < ends.size() && at < text.size()) {
    at = next(view, at);
    ends[n++] = at;
  }
  pos = at;
  return n;
}

}  // namespace

std::span<const std::string_view> patterns_of(ScannerKind kind) {
  switch (kind) {
    case ScannerKind::kDeepSeekV3:
      return kDeepSeekPatterns;
    case ScannerKind::kGpt2:
      return kGpt2Patterns;
    case ScannerKind::kCl100k:
      return kCl100kPatterns;
    case ScannerKind::kQwen2:
      break;
  }
  return kQwen2Patterns;
}

std::size_t scan(ScannerKind kind, std::string_view text, std::size_t& pos, std::span<std::size_t> ends) {
  using Plain = Text<View::kPlain>;
  switch (kind) {
    case ScannerKind::kDeepSeekV3:
      return fill<Text<View::kCut>>(text, pos, ends,
                                    [](const auto& t, std::size_t i) { return next_deepseek(t, i); });
    case ScannerKind::kGpt2:
      return fill<Plain>(text, pos, ends, [](const auto& t, std::size_t i) { return next_gpt2(t, i); });
    case ScannerKind::kCl100k:
      return fill<Plain>(text, pos, ends, [](const auto& t, std::size_t i) { return next_cl100k<3>(t, i); });
    case ScannerKind::kQwen2:
      break;
  }
  return fill<Plain>(text, pos, ends, [](const auto& t, std::size_t i) { return next_cl100k<1>(t, i); });
}

}  // namespace trireme::text
