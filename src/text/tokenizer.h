// Text to token ids and back, from the files that checkpoints ship: tokenizer.json (BPE) or else
// tokenizer.model (SentencePiece BPE or Unigram). Immutable after load; every method is thread-safe.
//
// User text never turns into an added token (special or not: "<|user|>", "<think>", "</s>") unless the caller
// trusts it: see EncodeOptions::parse_special and TextSegment. The one exception are added tokens that are
// white space only, which are ordinary text.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/types.h"
#include "text/vocabulary.h"

namespace trireme::text {

struct EncodeOptions {
  bool add_special_tokens =
      false;                   // what the post-processor or add_bos_token / add_eos_token put around a text
  bool parse_special = false;  // added tokens spelled in the text become these tokens
};

// A part of a text. Added tokens are recognised only where every byte of them is trusted.
struct TextSegment {
  std::string text;
  bool trusted = false;
};

// Turns text without added tokens into ids.
class TextModel {
 public:
  virtual ~TextModel() = default;
  // `first`: the chunk is at the start of the text, not after an added token. REQUIRES: valid UTF-8, not
  // empty.
  virtual Status encode(std::string_view chunk, bool first, std::vector<TokenId>& out) const = 0;
};

class Tokenizer {
 public:
  static constexpr std::size_t kMaxTextBytes = 1u << 30;

  // Reads tokenizer.json or tokenizer.model, and tokenizer_config.json, generation_config.json and
  // config.json when they are there. kNotFound, kInvalidArgument or kUnsupported, naming the file and the
  // component.
  static Result<std::unique_ptr<Tokenizer>> load(const std::string& model_dir);
  // The same from the texts of the files. An empty text: no such file.
  static Result<std::unique_ptr<Tokenizer>> from_json(std::string_view tokenizer_json,
                                                      std::string_view tokenizer_config = {});
  static Result<std::unique_ptr<Tokenizer>> from_sentencepiece(std::string_view model,
                                                               std::string_view tokenizer_config = {});

  // Text that is not UTF-8, or longer than kMaxTextBytes, is refused with kInvalidArgument.
  Result<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // The segments are one text: words may span them.
  Result<std::vector<TokenId>> encode_segments(std::span<const TextSegment> segments,
                                               bool add_special_tokens) const;

  // The text of ids: their bytes joined, ill-formed UTF-8 as U+FFFD. Ids that do not exist are nothing.
  std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;
  // The bytes that a token adds to a text, maybe not whole characters. Empty for ids that do not exist.
  std::string_view token_bytes(TokenId id) const { return vocabulary_.at(id).bytes; }
  // The token as the vocabulary spells it.
  std::string_view token_text(TokenId id) const { return vocabulary_.at(id).text; }
  bool is_special(TokenId id) const { return vocabulary_.at(id).special; }
  // The id of a token as the vocabulary spells it, or -1.
  TokenId id_of(std::string_view token) const { return vocabulary_.id_of(token); }
  i32 vocab_size() const { return vocabulary_.size(); }  // largest id + 1
  // -1 and "" when the checkpoint names none.
  TokenId bos() const { return bos_; }
  std::string_view bos_text() const { return bos_ < 0 ? std::string_view() : token_text(bos_); }
  // Every id that ends a text; the first is what templates call eos_token.
  std::span<const TokenId> eos() const { return eos_; }
  std::string_view eos_text() const { return eos_.empty() ? std::string_view() : token_text(eos_[0]); }
  // How many spaces at the start of a decoded text belong to the encoding and are left out (Llama-2: 1).
  int leading_spaces_stripped() const { return strip_; }

 private:
  Tokenizer() = default;
  Status read_config(std::string_view tokenizer_config);
  Result<std::vector<TokenId>> encode_trusted(std::string_view text, std::span<const ByteRange> trusted,
                                              bool add_special_tokens) const;
  Status read_stop_ids(const std::string& path);

  friend struct TokenizerJson;
  friend struct TokenizerSentencePiece;

  Vocabulary vocabulary_;
  AddedTokens added_;
  std::unique_ptr<const TextModel> model_;
  std::vector<TokenId> before_, after_;  // what add_special_tokens adds
  TokenId bos_ = -1;
  std::vector<TokenId> eos_;
  int strip_ = 0;
};

// Takes up to `left` spaces from the start of the first text that is not empty; `left` is what may still be
// taken.
void strip_spaces(std::string_view& part, int& left);

}  // namespace trireme::text
