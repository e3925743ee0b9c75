#include "text/detokenizer.h"

#include "text/unicode.h"

namespace trireme::text {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer), skip_special_(skip_special), strip_(tokenizer.leading_spaces_stripped()) {}

std::string Detokenizer::push(TokenId id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  std::string_view bytes = tokenizer_->token_bytes(id);
  strip_spaces(bytes, strip_);
  pending_ += bytes;
  const std::size_t certain = pending_.size() - incomplete_tail(pending_);
  std::string text = lossy_utf8(std::string_view(pending_).substr(0, certain));
  pending_.erase(0, certain);
  return text;
}

std::string Detokenizer::flush() {
  std::string text = lossy_utf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace trireme::text
