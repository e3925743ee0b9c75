#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace trireme::text {
namespace {

// Printable bytes of Latin-1 stand for themselves; the others take the code points from 256 on, in order.
constexpr bool stands_for_itself(u32 b) {
  return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

struct Alphabet {
  std::array<u16, 256> character{};
  std::array<i16, 324> byte{};  // -1: not in the alphabet
  constexpr Alphabet() {
    for (auto& b : byte) b = -1;
    u32 next = 256;
    for (u32 b = 0; b < 256; ++b) {
      const u32 c = stands_for_itself(b) ? b : next++;
      character[b] = static_cast<u16>(c);
      byte[c] = static_cast<i16>(b);
    }
  }
};
constexpr Alphabet kAlphabet;

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

std::optional<std::string> byte_level_bytes(std::string_view token) {
  std::string out;
  for (std::size_t pos = 0; pos < token.size();) {
    const CodePoint c = decode_at(token, pos);
    if (c.value >= kAlphabet.byte.size() || kAlphabet.byte[c.value] < 0) return std::nullopt;
    out.push_back(static_cast<char>(kAlphabet.byte[c.value]));
    pos += c.bytes;
  }
  return out;
}

u32 byte_level_character(u8 byte) { return kAlphabet.character[byte]; }

int byte_fallback_value(std::string_view t) {
  if (t.size() != 6 || !t.starts_with("<0x") || t[5] != '>') return -1;
  const int high = hex_digit(t[3]), low = hex_digit(t[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace trireme::text
