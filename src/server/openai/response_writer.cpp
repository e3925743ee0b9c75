#include "server/openai/response_writer.h"

#include <fmt/format.h>

#include <iterator>

#include "server/openai/json_text.h"

namespace trireme::server {
namespace {

void append_usage(std::string& out, const Usage& u) {
  fmt::format_to(
      std::back_inserter(out),
      R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{}}}}})",
      u.prompt_tokens, u.completion_tokens, u.prompt_tokens + u.completion_tokens, u.cached_tokens);
}

std::size_t characters(std::string_view bytes) {
  std::size_t n = 0;
  for (const char c : bytes) n += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return n;
}

// A token's text as a key: bytes that are no characters are spelled out, so that two tokens never look alike.
void append_token_text(std::string& out, std::string_view bytes) {
  if (is_utf8(bytes)) return append_json_string(out, bytes);
  std::string spelled = "bytes:";
  for (const char c : bytes) spelled += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  append_json_string(out, spelled);
}

void append_chat_token(std::string& out, const TextFrontend& text, const TokenLogprob& entry) {
  const auto bytes = text.token_bytes(entry.token);
  out += R"({"token":)";
  append_json_string(out, bytes);
  out += R"(,"logprob":)";
  append_json_number(out, entry.logprob);
  out += R"(,"bytes":[)";
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "{}{}", i ? "," : "", static_cast<unsigned char>(bytes[i]));
  }
  out += ']';
}

}  // namespace

ResponseWriter::ResponseWriter(bool chat, const std::string& id, std::string_view model, i64 created,
                               bool usage_in_chunks)
    : chat_(chat), usage_in_chunks_(usage_in_chunks) {
  const auto head = [&](std::string_view object) {
    std::string out = R"({"id":)";
    append_json_string(out, id);
    fmt::format_to(std::back_inserter(out), R"(,"object":"{}","created":{},"model":)", object, created);
    append_json_string(out, model);
    return out + R"(,"choices":[)";
  };
  head_ = "data: " + head(chat ? "chat.completion.chunk" : "text_completion");
  whole_head_ = head(chat ? "chat.completion" : "text_completion");
}

void ResponseWriter::begin(std::string& out, int index) const {
  out += head_;
  fmt::format_to(std::back_inserter(out), R"({{"index":{},)", index);
}

void ResponseWriter::end(std::string& out, std::string_view logprobs, std::string_view reason) const {
  out += R"(,"logprobs":)";
  out += logprobs.empty() ? "null" : logprobs;
  out += R"(,"finish_reason":)";
  if (reason.empty()) {
    out += "null";
  } else {
    out += '"';
    out += reason;
    out += '"';
  }
  out += usage_in_chunks_ ? "}],\"usage\":null}\n\n" : "}]}\n\n";
}

void ResponseWriter::role_chunk(std::string& out, int index) const {
  begin(out, index);
  out += R"("delta":{"role":"assistant","content":""})";
  end(out, {}, {});
}

void ResponseWriter::text_chunk(std::string& out, int index, std::string_view text,
                                std::string_view logprobs) const {
  begin(out, index);
  out += chat_ ? R"("delta":{"content":)" : R"("text":)";
  append_json_string(out, text);
  if (chat_) out += '}';
  end(out, logprobs, {});
}

void ResponseWriter::finish_chunk(std::string& out, int index, std::string_view reason) const {
  begin(out, index);
  out += chat_ ? R"("delta":{})" : R"("text":"")";
  end(out, {}, reason);
}

void ResponseWriter::usage_chunk(std::string& out, const Usage& usage) const {
  out += head_;
  out += R"(],"usage":)";
  append_usage(out, usage);
  out += "}\n\n";
}

void ResponseWriter::error_event(std::string& out, const ApiError& error) {
  out += "data: " + error_json(error) + "\n\n";
}

void ResponseWriter::done(std::string& out) { out += "data: [DONE]\n\n"; }

std::string ResponseWriter::whole(std::span<const ChoiceResult> choices, const Usage& usage) const {
  std::string out = whole_head_;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const auto& choice = choices[i];
    fmt::format_to(std::back_inserter(out), R"({}{{"index":{},)", i ? "," : "", i);
    out += chat_ ? R"("message":{"role":"assistant","content":)" : R"("text":)";
    append_json_string(out, choice.text);
    if (chat_) out += R"(,"refusal":null})";
    out += R"(,"logprobs":)";
    out += choice.logprobs.empty() ? "null" : choice.logprobs;
    fmt::format_to(std::back_inserter(out), R"(,"finish_reason":"{}"}})", choice.finish_reason);
  }
  out += R"(],"usage":)";
  append_usage(out, usage);
  out += '}';
  return out;
}

void LogprobsWriter::add(const OutputToken& token) {
  const TokenLogprob chosen = token.chosen.value_or(TokenLogprob{token.id, 0});
  const char* comma = count_++ ? "," : "";
  if (chat_) {
    content_ += comma;
    append_chat_token(content_, *text_, chosen);
    content_ += R"(,"top_logprobs":[)";
    for (std::size_t i = 0; i < token.top_logprobs.size(); ++i) {
      if (i) content_ += ',';
      append_chat_token(content_, *text_, token.top_logprobs[i]);
      content_ += '}';
    }
    content_ += "]}";
    return;
  }
  const auto bytes = text_->token_bytes(token.id);
  tokens_ += comma;
  append_token_text(tokens_, bytes);
  logprobs_ += comma;
  append_json_number(logprobs_, chosen.logprob);
  tops_ += comma;
  tops_ += '{';
  const auto add_top = [&](const TokenLogprob& entry) {
    if (tops_.back() != '{') tops_ += ',';
    append_token_text(tops_, text_->token_bytes(entry.token));
    tops_ += ':';
    append_json_number(tops_, entry.logprob);
  };
  bool has_chosen = false;
  for (const auto& entry : token.top_logprobs) {
    has_chosen |= entry.token == token.id;
    add_top(entry);
  }
  if (!has_chosen) add_top(chosen);
  tops_ += '}';
  fmt::format_to(std::back_inserter(offsets_), "{}{}", comma, offset_);
  offset_ += characters(bytes);
}

std::string LogprobsWriter::take() {
  if (empty()) return {};
  count_ = 0;
  if (chat_) return fmt::format(R"({{"content":[{}],"refusal":null}})", std::exchange(content_, {}));
  return fmt::format(R"({{"text_offset":[{}],"token_logprobs":[{}],"tokens":[{}],"top_logprobs":[{}]}})",
                     std::exchange(offsets_, {}), std::exchange(logprobs_, {}), std::exchange(tokens_, {}),
                     std::exchange(tops_, {}));
}

}  // namespace trireme::server
