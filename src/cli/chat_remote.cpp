#include "base/clock.h"
#include "base/log.h"
#include "cli/chat_model.h"

namespace trireme::cli {
namespace {

std::string request_text(const std::string& model, const OrderedJson& messages, const ChatSampling& s) {
  OrderedJson body{{"model", model},
                   {"messages", messages},
                   {"stream", true},
                   {"stream_options", {{"include_usage", true}}}};
  if (s.temperature) body["temperature"] = *s.temperature;
  if (s.top_p) body["top_p"] = *s.top_p;
  if (s.top_k) body["top_k"] = *s.top_k;
  if (s.max_tokens) body["max_tokens"] = *s.max_tokens;
  if (s.seed) body["seed"] = *s.seed;
  return to_text(body);
}

// A member of an object that has the right type, or nothing: the server may send anything.
const Json* member(const Json& from, const char* name, Json::value_t type) {
  if (!from.is_object()) return nullptr;
  const auto found = from.find(name);
  return found != from.end() && found->type() == type ? &*found : nullptr;
}

std::string_view text_of(const Json& from, const char* name) {
  const Json* found = member(from, name, Json::value_t::string);
  return found == nullptr ? std::string_view() : std::string_view(found->get_ref<const std::string&>());
}

i64 number_of(const Json& from, const char* name) {
  const Json* found = member(from, name, Json::value_t::number_unsigned);
  return found == nullptr ? 0 : found->get<i64>();
}

class RemoteChat final : public ChatModel {
 public:
  RemoteChat(HttpClient client, std::string model, const std::atomic<bool>& stop)
      : client_(std::move(client)), model_(std::move(model)), stop_(stop) {}

  std::string name() const override { return model_; }

  Result<ChatAnswer> answer(const OrderedJson& messages, const ChatSampling& sampling,
                            const OnText& on_text) override {
    ChatAnswer out;
    start_ = SteadyClock().now();
    bool done = false;
    Status bad;
    const auto status = client_.post_events("/v1/chat/completions", request_text(model_, messages, sampling),
                                            [&](std::string_view data) {
                                              done = data == "[DONE]";
                                              if (!done) bad = take(data, out, on_text);
                                              return !done && bad.has_value();
                                            });
    out.seconds = seconds(SteadyClock().now() - start_);
    if (!status && status.error().code == ErrorCode::kCancelled && stop_.load()) {
      out.stopped = true;
      return out;
    }
    TRY(status);
    TRY(bad);
    if (!done && out.finish_reason.empty()) {
      return fail(ErrorCode::kUnavailable, "the server ended its answer before it was complete; ask again");
    }
    return out;
  }

 private:
  Status take(std::string_view data, ChatAnswer& out, const OnText& on_text) const {
    ASSIGN(const auto json, parse_json(data, "the server's stream"));
    if (json.is_object() && json.contains("error") && !json["error"].is_null()) {
      const auto& error = json["error"];
      const auto words = text_of(error, "message");
      return fail(ErrorCode::kInternal, "the server: {}",
                  one_line(words.empty() ? to_text(error) : words, 1024));
    }
    if (const Json* usage = member(json, "usage", Json::value_t::object)) {
      out.prompt_tokens = number_of(*usage, "prompt_tokens");
      out.output_tokens = number_of(*usage, "completion_tokens");
      if (const Json* details = member(*usage, "prompt_tokens_details", Json::value_t::object)) {
        out.cached_tokens = number_of(*details, "cached_tokens");
      }
    }
    const Json* choices = member(json, "choices", Json::value_t::array);
    if (choices == nullptr || choices->empty()) return {};
    const Json& choice = (*choices)[0];
    if (const auto reason = text_of(choice, "finish_reason"); !reason.empty()) out.finish_reason = reason;
    const Json* delta = member(choice, "delta", Json::value_t::object);
    if (delta == nullptr) return {};
    const auto reasoning = text_of(*delta, "reasoning_content"), text = text_of(*delta, "content");
    if ((!reasoning.empty() || !text.empty()) && out.ttft == 0) {
      out.ttft = seconds(SteadyClock().now() - start_);
    }
    if (!reasoning.empty()) on_text(reasoning, true);
    if (!text.empty()) {
      out.text += text;
      on_text(text, false);
    }
    return {};
  }

  HttpClient client_;
  std::string model_;
  const std::atomic<bool>& stop_;
  Time start_{};
};

}  // namespace

std::unique_ptr<ChatModel> remote_chat(HttpClient client, std::string model, const std::atomic<bool>& stop) {
  return std::make_unique<RemoteChat>(std::move(client), std::move(model), stop);
}

}  // namespace trireme::cli
