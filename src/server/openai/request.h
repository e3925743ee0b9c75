// A checked request of /v1/chat/completions or /v1/completions, and its way from JSON to token ids.
#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/openai/api_error.h"
#include "server/options.h"
#include "server/text_frontend.h"
#include "trireme/engine.h"

namespace trireme::server {

// What requests are held against.
struct RequestLimits {
  int vocab_size = 0;
  int max_model_len = 0;
  std::size_t max_token_bytes = 0;
  int max_choices = 128;
  bool allow_template_kwargs = false;
  std::vector<std::string> model_names;  // the first is the one that answers carry
};

using TextOrTokens = std::variant<std::string, std::vector<TokenId>>;

struct GenerationRequest {
  bool chat = false;
  ChatPrompt chat_prompt;             // when chat
  std::vector<TextOrTokens> prompts;  // when not
  EncodeText encode;                  // of prompts that are text
  bool echo = false;

  int n = 1;
  SamplingParams sampling;        // max_tokens in it is set by prepared()
  std::optional<int> max_tokens;  // as given
  StreamTextOptions text;
  int top_logprobs = 0;
  bool logprobs = false;

  bool stream = false;
  bool include_usage = false;
  int priority = 0;
  std::string cache_salt;
  std::optional<std::chrono::nanoseconds> timeout;
};

// 404 model_not_found when the body names a model that is not served; one that names none gets the first.
ApiResult<void> check_model(const OrderedJson& body, const RequestLimits& limits);
ApiResult<GenerationRequest> parse_chat_request(OrderedJson body, const RequestLimits& limits);
ApiResult<GenerationRequest> parse_completion_request(OrderedJson body, const RequestLimits& limits);
// How a text prompt is to be encoded.
ApiResult<EncodeText> parse_encode_options(const OrderedJson& body);
// The messages and tools of a body, for the routes that only count tokens.
ApiResult<ChatPrompt> parse_chat_prompt(OrderedJson& body, const RequestLimits& limits);

struct PreparedRequest {
  GenerationRequest request;
  std::vector<std::vector<TokenId>> prompts;  // one for each prompt; each is asked for request.n times
  std::vector<std::string> echoes;            // when request.echo: the prompts' text
};

// Tokenises, and holds the result against the context. Takes as long as the text is long.
ApiResult<PreparedRequest> prepared(GenerationRequest request, const TextFrontend& text,
                                    const RequestLimits& limits);
// A chat's or a prompt's token ids. An error names `param`.
ApiResult<std::vector<TokenId>> encode_bounded(const TextFrontend& text, const ChatPrompt& prompt,
                                               const RequestLimits& limits);
ApiResult<std::vector<TokenId>> encode_bounded(const TextFrontend& text, std::string_view prompt,
                                               const EncodeText& how, const RequestLimits& limits);

}  // namespace trireme::server
