// Byte pair encoding of one word: the pair of lowest rank is merged, leftmost first, until none is left.
// Immutable after build, so threads may share it. Gage 1994; Sennrich, Haddow, Birch 2016.
#pragma once
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/types.h"
#include "text/flat_map.h"

namespace trireme::text {

// How a word falls into its first symbols.
enum class BpeAlphabet {
  kBytes,       // byte-level: every byte is a symbol
  kCharacters,  // every UTF-8 character is a symbol; one that is unknown falls back to byte tokens
};

struct BpeSpec {
  struct Merge {
    TokenId left, right, result;
  };
  BpeAlphabet alphabet = BpeAlphabet::kBytes;
  std::vector<std::string> token_bytes;  // by id; empty: cannot be made from text
  std::vector<Merge> merges;             // by rank; a pair named twice keeps its last rank
  std::array<TokenId, 256> byte_tokens;  // token of each single byte or of <0xNN>, -1 when there is none
  TokenId unknown = -1;                  // -1: a character without a token is an error
  bool fuse_unknown = false;
  bool whole_word_first = false;  // ignore_merges: a word that is a token is that token
};

class Bpe {
 public:
  explicit Bpe(BpeSpec spec);

  // Appends the ids of `word`. O(n log n) in its bytes. REQUIRES: valid UTF-8, below 2^31 bytes.
  Status encode(std::string_view word, std::vector<TokenId>& out) const;

 private:
  Status symbols(std::string_view word, std::vector<TokenId>& out) const;
  void merge_short(std::vector<TokenId>& ids) const;
  void merge_long(std::vector<TokenId>& ids) const;
  u64 pair(TokenId left, TokenId right) const {
    return merges_.find(u64{static_cast<u32>(left)} << 32 | static_cast<u32>(right));
  }

  BpeSpec spec_;
  std::unordered_map<std::string_view, TokenId> id_of_bytes_;  // views into spec_.token_bytes
  FlatMap merges_;                                             // (left, right) -> rank << 32 | result
};

}  // namespace trireme::text
