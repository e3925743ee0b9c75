// What the server needs of text: prompts to token ids, and tokens back to text, a piece at a time.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/types.h"

namespace trireme::server {

// The text of one choice while it is made. Not thread-safe; one thread at a time may use it.
class StreamText {
 public:
  virtual ~StreamText() = default;

  struct Piece {
    std::string text;      // complete UTF-8 characters that can no longer become part of a stop string
    bool stopped = false;  // a stop string was met: nothing more comes, and nothing must be pushed
  };
  virtual Piece push(TokenId id) = 0;
  // What is held back at the end of the output: a start of a stop string that never came, half a character.
  virtual Piece flush() = 0;
};

struct StreamTextOptions {
  std::vector<std::string> stop;
  bool include_stop = false;  // the stop string stays in the text
  bool skip_special_tokens = true;
};

struct ChatPrompt {
  OrderedJson messages;         // non-empty array, checked for form
  OrderedJson tools;            // array, or null
  OrderedJson template_kwargs;  // object with more variables for the template, or null
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool add_special_tokens = false;  // beyond those in the template
};

struct EncodeText {
  bool add_special_tokens = true;  // those that the tokenizer puts around a text
  bool parse_special = false;      // special tokens spelled in the text become these tokens
};

// Thread-safe.
class TextFrontend {
 public:
  virtual ~TextFrontend() = default;

  virtual Result<std::vector<TokenId>> encode(std::string_view text, const EncodeText& how) const = 0;
  // kUnsupported: this model has no chat template. kInvalidArgument: the template refused the messages.
  virtual Result<std::vector<TokenId>> encode_chat(const ChatPrompt& prompt) const = 0;
  virtual std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const = 0;
  // The bytes that a token stands for, not always UTF-8 on their own; a special token's are its name.
  virtual std::string token_bytes(TokenId id) const = 0;
  virtual std::unique_ptr<StreamText> stream(const StreamTextOptions& options) const = 0;
  // No token stands for more bytes of text than this, so that a text that is far too long is known at once.
  virtual std::size_t max_token_bytes() const = 0;
};

}  // namespace trireme::server
