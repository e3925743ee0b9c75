#include <algorithm>

#include "server/openai/request.h"

namespace trireme::server {
namespace {

constexpr int kDefaultCompletionTokens = 16;

tl::unexpected<ApiError> too_long(std::string_view param, std::string message) {
  return bad_param(param, std::move(message), "context_length_exceeded");
}

std::size_t text_bytes(const OrderedJson& value) {
  if (value.is_string()) return value.get_ref<const std::string&>().size();
  std::size_t sum = 0;
  if (value.is_structured()) {
    for (const auto& item : value) sum += text_bytes(item);
  }
  return sum;
}

// Known before any work: each token covers at most so many bytes.
ApiResult<void> check_bytes(std::size_t bytes, const char* param, const RequestLimits& limits) {
  const auto most = limits.max_token_bytes * static_cast<std::size_t>(limits.max_model_len);
  if (bytes <= most) return {};
  return too_long(param,
                  fmt::format("{}: {} bytes of text are more than {} tokens, the model's context; shorten it",
                              param, bytes, limits.max_model_len));
}

ApiResult<int> room_for(const GenerationRequest& request, std::size_t prompt_tokens,
                        const RequestLimits& limits) {
  const char* param = request.chat ? "messages" : "prompt";
  const auto context = static_cast<i64>(limits.max_model_len);
  const auto prompt = static_cast<i64>(prompt_tokens);
  if (prompt == 0) return bad_param(param, fmt::format("{}: it has no tokens", param));
  if (prompt >= context) {
    return too_long(param, fmt::format("{}: {} tokens leave no room in the model's context of {}; shorten it",
                                       param, prompt, context));
  }
  const i64 room = context - prompt;
  if (!request.max_tokens)
    return static_cast<int>(request.chat ? room : std::min<i64>(room, kDefaultCompletionTokens));
  if (*request.max_tokens > room) {
    return too_long(
        "max_tokens",
        fmt::format(
            "max_tokens: {} tokens after a prompt of {} are more than the model's context of {}; at most {} "
            "fit",
            *request.max_tokens, prompt, context, room));
  }
  return *request.max_tokens;
}

}  // namespace

ApiResult<std::vector<TokenId>> encode_bounded(const TextFrontend& text, const ChatPrompt& prompt,
                                               const RequestLimits& limits) {
  // Tools may be rendered in any way, but not in much less than they are here.
  std::size_t bytes = prompt.tools.is_null() ? 0 : to_text(prompt.tools).size();
  TRY(check_bytes(bytes, "tools", limits));
  for (const auto& message : prompt.messages) {
    const auto calls = message.find("tool_calls");
    if (calls != message.end()) bytes += to_text(*calls).size();
    const auto content = message.find("content");
    if (content == message.end()) continue;
    if (content->is_array()) {
      for (const auto& part : *content) bytes += text_bytes(part["text"]);
    } else {
      bytes += text_bytes(*content);
    }
  }
  TRY(check_bytes(bytes, "messages", limits));
  auto ids = text.encode_chat(prompt);
  if (!ids) return tl::unexpected(api_error(ids.error(), "messages"));
  return std::move(*ids);
}

ApiResult<std::vector<TokenId>> encode_bounded(const TextFrontend& text, std::string_view prompt,
                                               const EncodeText& how, const RequestLimits& limits) {
  TRY(check_bytes(prompt.size(), "prompt", limits));
  auto ids = text.encode(prompt, how);
  if (!ids) return tl::unexpected(api_error(ids.error(), "prompt"));
  return std::move(*ids);
}

ApiResult<PreparedRequest> prepared(GenerationRequest request, const TextFrontend& text,
                                    const RequestLimits& limits) {
  PreparedRequest out;
  if (request.chat) {
    ASSIGN(auto ids, encode_bounded(text, request.chat_prompt, limits));
    out.prompts.push_back(std::move(ids));
    request.chat_prompt = {};
  }
  for (auto& prompt : request.prompts) {
    if (auto* tokens = std::get_if<std::vector<TokenId>>(&prompt)) {
      if (request.echo) out.echoes.push_back(text.decode(*tokens, request.text.skip_special_tokens));
      out.prompts.push_back(std::move(*tokens));
    } else {
      auto& string = std::get<std::string>(prompt);
      ASSIGN(auto ids, encode_bounded(text, string, request.encode, limits));
      out.prompts.push_back(std::move(ids));
      if (request.echo) out.echoes.push_back(std::move(string));
    }
  }
  request.prompts.clear();
  int most = limits.max_model_len;
  for (const auto& ids : out.prompts) {
    ASSIGN(const int room, room_for(request, ids.size(), limits));
    most = std::min(most, room);
  }
  request.sampling.max_tokens = most;
  if (request.sampling.min_tokens > most) {
    return bad_param("min_tokens",
                     fmt::format("min_tokens: {} is more than the {} tokens that may be generated",
                                 request.sampling.min_tokens, most));
  }
  // An answer that is not streamed is held until it is complete: what this one may come to.
  constexpr i64 kTokenBytes = 16, kLogprobBytes = 100, kMostBytes = i64{128} << 20;
  const i64 per_token = kTokenBytes + (request.sampling.logprobs + 1) * kLogprobBytes;
  const i64 tokens = static_cast<i64>(out.prompts.size()) * request.n * most;
  if (!request.stream && tokens * per_token > kMostBytes) {
    return bad_param(
        "max_tokens",
        fmt::format("max_tokens: {} tokens in all choices with {} logprobs each are too many for one "
                    "answer; lower max_tokens, n or the number of logprobs",
                    tokens, std::max(0, request.sampling.logprobs)));
  }
  out.request = std::move(request);
  return out;
}

}  // namespace trireme::server
