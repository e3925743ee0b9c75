// Text without a tokenizer, for tests: a token is a byte, 256 ends a text, and 257 to 259 are roles.
#pragma once
#include <algorithm>

#include "server/text_frontend.h"

namespace trireme::server {

inline constexpr TokenId kFakeEos = 256;
inline constexpr int kFakeVocab = 300;

class FakeStreamText final : public StreamText {
 public:
  explicit FakeStreamText(StreamTextOptions options) : options_(std::move(options)) {}

  Piece push(TokenId id) override {
    if (id < 256) held_ += static_cast<char>(id);
    for (const auto& stop : options_.stop) {
      const auto at = held_.find(stop);
      if (at == std::string::npos) continue;
      return {held_.substr(0, at + (options_.include_stop ? stop.size() : 0)), true};
    }
    std::size_t keep = 0;
    for (const auto& stop : options_.stop) {
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
        if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) keep = n;
      }
    }
    Piece out{held_.substr(0, held_.size() - keep), false};
    held_.erase(0, held_.size() - keep);
    return out;
  }
  Piece flush() override { return {std::exchange(held_, {}), false}; }

 private:
  StreamTextOptions options_;
  std::string held_;
};

class FakeText final : public TextFrontend {
 public:
  Result<std::vector<TokenId>> encode(std::string_view text, const EncodeText&) const override {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  Result<std::vector<TokenId>> encode_chat(const ChatPrompt& prompt) const override {
    std::vector<TokenId> ids;
    for (const auto& message : prompt.messages) {
      ids.push_back(message["role"] == "user" ? 257 : 258);
      const auto content = message.find("content");
      const auto add = [&](const OrderedJson& text) {
        for (const char c : text.get<std::string>()) ids.push_back(static_cast<unsigned char>(c));
      };
      if (content != message.end() && content->is_string()) add(*content);
      if (content != message.end() && content->is_array()) {
        for (const auto& part : *content) add(part["text"]);
      }
    }
    if (!prompt.tools.is_null()) ids.push_back(260);
    if (prompt.add_generation_prompt) ids.push_back(259);
    return ids;
  }
  std::string decode(std::span<const TokenId> ids, bool) const override {
    std::string out;
    for (const auto id : ids) out += id < 256 ? std::string(1, static_cast<char>(id)) : "";
    return out;
  }
  std::string token_bytes(TokenId id) const override {
    return id < 256 ? std::string(1, static_cast<char>(id)) : "<|" + std::to_string(id) + "|>";
  }
  std::unique_ptr<StreamText> stream(const StreamTextOptions& options) const override {
    return std::make_unique<FakeStreamText>(options);
  }
  std::size_t max_token_bytes() const override { return 1; }
};

}  // namespace trireme::server
