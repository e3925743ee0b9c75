#include "server/model_text.h"

#include <algorithm>

#include "text/stream_text.h"

namespace trireme::server {
namespace {

class ModelStreamText final : public StreamText {
 public:
  // The tokenizer is held, as a stream may outlive what made it.
  ModelStreamText(std::shared_ptr<const text::Tokenizer> tokenizer, const StreamTextOptions& options)
      : tokenizer_(std::move(tokenizer)),
        stream_(*tokenizer_, {options.stop, options.include_stop}, options.skip_special_tokens) {}

  Piece push(TokenId id) override { return piece(stream_.push(id)); }
  Piece flush() override { return piece(stream_.finish()); }

 private:
  static Piece piece(text::Piece&& p) { return {std::move(p.text), p.stopped}; }

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  text::StreamText stream_;
};

// Many templates can only add a message's content to a string. Whether this one knows content in parts is
// seen by whether it writes the same for both forms.
bool takes_parts(const text::Tokenizer& tokenizer, const text::ChatTemplate& chat) {
  const auto render = [&](OrderedJson content) {
    text::ChatInput input;
    input.messages = OrderedJson::array({OrderedJson{{"role", "user"}, {"content", std::move(content)}}});
    input.bos_token = tokenizer.bos_text();
    input.eos_token = tokenizer.eos_text();
    return chat.render(input);
  };
  const auto plain = render("probe");
  const auto parts = render(OrderedJson::array({OrderedJson{{"type", "text"}, {"text", "probe"}}}));
  return plain && parts && *plain == *parts;
}

void join_parts(OrderedJson& messages) {
  for (auto& message : messages) {
    const auto content = message.find("content");
    if (content == message.end() || !content->is_array()) continue;
    std::string joined;
    for (std::size_t i = 0; i < content->size(); ++i) {
      if (i) joined += '\n';
      joined += (*content)[i]["text"].get_ref<const std::string&>();
    }
    *content = std::move(joined);
  }
}

class ModelText final : public TextFrontend {
 public:
  ModelText(std::shared_ptr<const text::Tokenizer> tokenizer, std::optional<text::ChatTemplate> chat)
      : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)) {
    for (TokenId id = 0; id < tokenizer_->vocab_size(); ++id) {
      const auto bytes = std::max(tokenizer_->token_bytes(id).size(), tokenizer_->token_text(id).size());
      max_token_bytes_ = std::max(max_token_bytes_, bytes);
    }
    takes_parts_ = chat_ && takes_parts(*tokenizer_, *chat_);
  }

  Result<std::vector<TokenId>> encode(std::string_view text, const EncodeText& how) const override {
    return tokenizer_->encode(text, {how.add_special_tokens, how.parse_special});
  }

  Result<std::vector<TokenId>> encode_chat(const ChatPrompt& prompt) const override {
    if (!chat_) {
      return fail(
          ErrorCode::kUnsupported,
          "this model has no chat template: use /v1/completions, or start the server with --chat-template");
    }
    text::ChatInput input;
    input.messages = prompt.messages;
    if (!takes_parts_) join_parts(input.messages);
    input.tools = prompt.tools;
    input.add_generation_prompt = prompt.add_generation_prompt;
    input.kwargs = prompt.template_kwargs;
    input.bos_token = tokenizer_->bos_text();
    input.eos_token = tokenizer_->eos_text();
    if (!prompt.add_special_tokens) return text::encode_chat(*tokenizer_, *chat_, std::move(input));
    ASSIGN(const auto segments, chat_->render_segments(input));
    return tokenizer_->encode_segments(segments, true);
  }

  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens) const override {
    return tokenizer_->decode(ids, skip_special_tokens);
  }
  std::string token_bytes(TokenId id) const override {
    const auto bytes = tokenizer_->token_bytes(id);
    return std::string(bytes.empty() ? tokenizer_->token_text(id) : bytes);
  }
  std::unique_ptr<StreamText> stream(const StreamTextOptions& options) const override {
    return std::make_unique<ModelStreamText>(tokenizer_, options);
  }
  std::size_t max_token_bytes() const override { return max_token_bytes_; }

 private:
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> chat_;
  std::size_t max_token_bytes_ = 1;
  bool takes_parts_ = false;
};

}  // namespace

std::unique_ptr<TextFrontend> make_text_frontend(std::shared_ptr<const text::Tokenizer> tokenizer,
                                                 std::optional<text::ChatTemplate> chat) {
  return std::make_unique<ModelText>(std::move(tokenizer), std::move(chat));
}

Result<std::unique_ptr<TextFrontend>> load_text_frontend(const std::string& model_dir,
                                                         const std::string& chat_template) {
  ASSIGN(std::shared_ptr<const text::Tokenizer> tokenizer, text::Tokenizer::load(model_dir));
  auto chat = text::load_chat_template(model_dir, chat_template);
  if (!chat) {
    // A model without a template still completes texts; a template that was asked for or is broken is an
    // error.
    if (chat.error().code != ErrorCode::kNotFound || !chat_template.empty())
      return tl::unexpected(std::move(chat).error());
    return make_text_frontend(std::move(tokenizer), std::nullopt);
  }
  return make_text_frontend(std::move(tokenizer), std::move(*chat));
}

}  // namespace trireme::server
