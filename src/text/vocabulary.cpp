#include "text/vocabulary.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "text/unicode.h"

namespace trireme::text {
namespace {

bool is_word_character(u32 c) {
  const u32 mask = U_GET_GC_MASK(static_cast<UChar32>(c));
  return (mask & (U_GC_L_MASK | U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_isUAlphabetic(static_cast<UChar32>(c));
}

std::size_t start_of_last(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  while (at > 0 && (text[at] & 0xC0) == 0x80) --at;
  return at;
}

}  // namespace

Status Vocabulary::add(TokenId id, Token token) {
  if (id < 0 || id > kMaxTokenId) {
    return invalid("token '{}' has the id {}; 0 to {} are allowed", token.text, id, kMaxTokenId);
  }
  const auto known = ids_.find(token.text);
  if (known != ids_.end() && known->second != id) {
    return invalid("token '{}' has two ids, {} and {}", token.text, known->second, id);
  }
  if (static_cast<std::size_t>(id) >= tokens_.size()) tokens_.resize(static_cast<std::size_t>(id) + 1);
  Token& slot = tokens_[static_cast<std::size_t>(id)];
  if (slot.exists && slot.text != token.text) {
    return invalid("the id {} belongs to two tokens, '{}' and '{}'", id, slot.text, token.text);
  }
  ids_.emplace(token.text, id);
  slot = std::move(token);
  slot.exists = true;
  return {};
}

TokenId Vocabulary::id_of(std::string_view text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? -1 : found->second;
}

bool is_blank(std::string_view text) {
  for (std::size_t pos = 0; pos < text.size();) {
    const CodePoint c = decode_at(text, pos);
    if (!is_space(c.value)) return false;
    pos += c.bytes;
  }
  return true;
}

void AddedTokens::add(AddedToken token) {
  const u32 index = static_cast<u32>(tokens_.size());
  tries_[token.normalized].insert(token.content, index);
  if (is_blank(token.content)) blank_tries_[token.normalized].insert(token.content, index);
  tokens_.push_back(std::move(token));
}

std::optional<AddedTokens::Chunk> AddedTokens::match_at(std::string_view text, std::size_t at,
                                                        std::size_t trusted_end, bool normalized) const {
  Trie::Match match;
  if (at < trusted_end) match = tries_[normalized].longest(text.substr(at, trusted_end - at));
  if (!blank_tries_[normalized].empty()) {
    const Trie::Match blank = blank_tries_[normalized].longest(text.substr(at));
    if (blank.length > match.length) match = blank;
  }
  if (match.length == 0) return std::nullopt;
  return Chunk{{at, at + match.length}, static_cast<TokenId>(match.value)};
}

void AddedTokens::cut_range(std::string_view text, ByteRange range, std::span<const ByteRange> trusted,
                            bool normalized, std::vector<Chunk>& out) const {
  const Trie& trie = tries_[normalized];
  std::size_t done = range.begin;
  auto next_trusted = std::partition_point(trusted.begin(), trusted.end(),
                                           [&](const ByteRange& r) { return r.end <= range.begin; });
  const bool blanks = !blank_tries_[normalized].empty();
  for (std::size_t at = range.begin; at < range.end && !trie.empty();) {
    while (next_trusted != trusted.end() && next_trusted->end <= at) ++next_trusted;
    const bool inside = next_trusted != trusted.end() && next_trusted->begin <= at;
    if (!inside && !blanks) {
      if (next_trusted == trusted.end() || next_trusted->begin >= range.end) break;
      at = next_trusted->begin;
      continue;
    }
    if (!trie.starts_with(text[at])) {
      ++at;
      continue;
    }
    const std::size_t trusted_end = inside ? std::min(next_trusted->end, range.end) : at;
    const auto found = match_at(text.substr(0, range.end), at, trusted_end, normalized);
    if (!found) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(found->token)];
    ByteRange r = found->range;
    at = r.end;
    if (token.single_word) {
      const bool word_before =
          r.begin > range.begin && is_word_character(decode_at(text, start_of_last(text, r.begin)).value);
      const bool word_after = r.end < range.end && is_word_character(decode_at(text, r.end).value);
      if (word_before || word_after) continue;
    }
    while (token.lstrip && r.begin > done) {
      const std::size_t before = start_of_last(text, r.begin);
      if (!is_space(decode_at(text, before).value)) break;
      r.begin = before;
    }
    while (token.rstrip && r.end < range.end) {
      const CodePoint c = decode_at(text, r.end);
      if (!is_space(c.value)) break;
      r.end += c.bytes;
    }
    if (r.begin > done) out.push_back({{done, r.begin}, -1});
    out.push_back({r, token.id});
    at = done = r.end;
  }
  if (done < range.end) out.push_back({{done, range.end}, -1});
}

std::vector<AddedTokens::Chunk> AddedTokens::cut(std::string_view text,
                                                 std::span<const ByteRange> trusted) const {
  std::vector<Chunk> first;
  cut_range(text, {0, text.size()}, trusted, false, first);
  if (tries_[1].empty()) return first;
  std::vector<Chunk> out;
  for (const Chunk& chunk : first) {
    if (chunk.token >= 0) {
      out.push_back(chunk);
    } else {
      cut_range(text, chunk.range, trusted, true, out);
    }
  }
  return out;
}

}  // namespace trireme::text
