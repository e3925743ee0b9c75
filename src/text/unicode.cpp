#include "text/unicode.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace trireme::text {
namespace {

// What a lead byte promises: its length, and the bounds of the second byte (the rest are 80..BF).
struct Lead {
  u32 bytes;
  u8 low, high;
};
constexpr Lead lead_of(u8 b) {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xC2) return {0, 0, 0};
  if (b < 0xE0) return {2, 0x80, 0xBF};
  if (b == 0xE0) return {3, 0xA0, 0xBF};
  if (b == 0xED) return {3, 0x80, 0x9F};
  if (b < 0xF0) return {3, 0x80, 0xBF};
  if (b == 0xF0) return {4, 0x90, 0xBF};
  if (b < 0xF4) return {4, 0x80, 0xBF};
  if (b == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Bytes from pos that are a well-formed prefix of one character; complete when it equals lead.bytes.
u32 good_prefix(std::string_view s, std::size_t pos, const Lead& lead) {
  u32 good = 1;
  while (good < lead.bytes && pos + good < s.size()) {
    const u8 b = static_cast<u8>(s[pos + good]);
    const u8 low = good == 1 ? lead.low : 0x80;
    const u8 high = good == 1 ? lead.high : 0xBF;
    if (b < low || b > high) break;
    ++good;
  }
  return good;
}

u8 class_of_category(UCharCategory category) {
  const u32 mask = U_MASK(category);
  if (mask & U_GC_L_MASK) return kLetter;
  if (mask & U_GC_M_MASK) return kMark;
  if (mask & U_GC_N_MASK) return kNumber;
  if (mask & U_GC_P_MASK) return kPunctuation;
  if (mask & U_GC_S_MASK) return kSymbol;
  return 0;
}

UBool fill_range(const void* context, UChar32 start, UChar32 limit, UCharCategory category) {
  u8* bits = static_cast<u8*>(const_cast<void*>(context));
  std::memset(bits + start, class_of_category(category), static_cast<std::size_t>(limit - start));
  return 1;
}

}  // namespace

bool valid_utf8(std::string_view s) {
  std::size_t pos = 0;
  while (pos < s.size()) {
    while (pos + 8 <= s.size()) {
      u64 word;
      std::memcpy(&word, s.data() + pos, 8);
      if (word & 0x8080808080808080ULL) break;
      pos += 8;
    }
    if (pos == s.size()) break;
    const Lead lead = lead_of(static_cast<u8>(s[pos]));
    if (lead.bytes == 0 || good_prefix(s, pos, lead) != lead.bytes) return false;
    pos += lead.bytes;
  }
  return true;
}

CodePoint decode_at(std::string_view s, std::size_t pos) {
  const u8 b = static_cast<u8>(s[pos]);
  if (b < 0x80) return {b, 1};
  const Lead lead = lead_of(b);
  if (lead.bytes == 0) return {kReplacement, 1};
  const u32 good = good_prefix(s, pos, lead);
  if (good != lead.bytes) return {kReplacement, good};
  u32 value = b & (0xFFu >> (lead.bytes + 1));
  for (u32 i = 1; i < lead.bytes; ++i) value = value << 6 | (static_cast<u8>(s[pos + i]) & 0x3Fu);
  return {value, lead.bytes};
}

void append_utf8(std::string& out, u32 c) {
  const auto put = [&out](u32 b) { out.push_back(static_cast<char>(b)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

std::string lossy_utf8(std::string_view s) {
  if (valid_utf8(s)) return std::string(s);
  std::string out;
  out.reserve(s.size() + 8);
  for (std::size_t pos = 0; pos < s.size();) {
    const u8 b = static_cast<u8>(s[pos]);
    const Lead lead = lead_of(b);
    const u32 good = lead.bytes == 0 ? 1 : good_prefix(s, pos, lead);
    if (lead.bytes != 0 && good == lead.bytes) {
      out.append(s.substr(pos, good));
    } else {
      out.append(kReplacementUtf8);
    }
    pos += good;
  }
  return out;
}

std::size_t incomplete_tail(std::string_view s) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, s.size()); ++back) {
    const std::size_t pos = s.size() - back;
    const u8 b = static_cast<u8>(s[pos]);
    if ((b & 0xC0) == 0x80) continue;
    const Lead lead = lead_of(b);
    return lead.bytes > back && good_prefix(s, pos, lead) == back ? back : 0;
  }
  return 0;
}

std::size_t count_code_points(std::string_view s) {
  return static_cast<std::size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

CharTable::CharTable() {
  u_enumCharTypes(fill_range, bits_.data());
  for (u32 c = 0; c <= 0x3000; ++c) {
    if (u_isUWhiteSpace(static_cast<UChar32>(c))) bits_[c] |= kSpace;
  }
  bits_['\r'] |= kNewline;
  bits_['\n'] |= kNewline;
  for (u32 c = 0x4E00; c <= 0x9FA5; ++c) bits_[c] |= kCjk;
  for (u32 c = 0x3040; c <= 0x30FF; ++c) bits_[c] |= kCjk;
}

const CharTable& CharTable::instance() {
  static const std::unique_ptr<const CharTable> table(new CharTable);
  return *table;
}

bool is_space(u32 c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

}  // namespace trireme::text
