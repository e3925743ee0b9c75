// The tokens of a tokenizer by id and by name, and finding added tokens in text. Built once, then read by
// many threads.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/types.h"
#include "text/trie.h"

namespace trireme::text {

// No vocabulary in use is larger; bounds what a file can make us allocate.
constexpr TokenId kMaxTokenId = (1 << 20) - 1;

struct Token {
  std::string text;   // as the vocabulary spells it
  std::string bytes;  // what it adds to a decoded text
  bool special = false;
  bool added = false;
  bool exists = false;
};

class Vocabulary {
 public:
  // Refuses an id out of range, an id with another token, and a token with another id.
  Status add(TokenId id, Token token);
  const Token& at(TokenId id) const {
    return id >= 0 && static_cast<std::size_t>(id) < tokens_.size() ? tokens_[static_cast<std::size_t>(id)]
                                                                    : none_;
  }
  Token& mutable_at(TokenId id) { return tokens_[static_cast<std::size_t>(id)]; }
  TokenId id_of(std::string_view text) const;
  i32 size() const { return static_cast<i32>(tokens_.size()); }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  std::vector<Token> tokens_;
  std::unordered_map<std::string, TokenId, Hash, std::equal_to<>> ids_;
  Token none_;
};

struct AddedToken {
  std::string content;
  TokenId id = -1;
  bool single_word = false;             // only between characters that are no word characters
  bool lstrip = false, rstrip = false;  // takes the white space before / after along
  bool normalized = false;              // looked for after the ones that are not
};

// A half-open range of bytes.
struct ByteRange {
  std::size_t begin = 0, end = 0;
};

class AddedTokens {
 public:
  // REQUIRES: !token.content.empty().
  void add(AddedToken token);
  bool empty() const { return tokens_.empty(); }

  struct Chunk {
    ByteRange range;
    TokenId token = -1;  // -1: plain text
  };
  // Cuts `text` into plain chunks and added tokens: leftmost, then longest. Tokens are recognised inside
  // `trusted` (sorted, disjoint, not touching) and, when they are white space only, anywhere.
  std::vector<Chunk> cut(std::string_view text, std::span<const ByteRange> trusted) const;

 private:
  std::optional<Chunk> match_at(std::string_view text, std::size_t at, std::size_t trusted_end,
                                bool normalized) const;
  void cut_range(std::string_view text, ByteRange range, std::span<const ByteRange> trusted, bool normalized,
                 std::vector<Chunk>& out) const;

  std::vector<AddedToken> tokens_;
  Trie tries_[2], blank_tries_[2];  // [normalized]; the second for tokens that are white space only
};

// Whether all of it is white space.
bool is_blank(std::string_view text);

}  // namespace trireme::text
