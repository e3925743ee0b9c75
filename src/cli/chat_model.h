// Who answers a chat: a server, or an engine in this process.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/types.h"
#include "cli/http_client.h"
#include "server/text_frontend.h"
#include "trireme/engine.h"

namespace trireme::cli {

// What is not given is left to the model's side.
struct ChatSampling {
  std::optional<double> temperature, top_p;
  std::optional<int> top_k, max_tokens;
  std::optional<u64> seed;
};
// "temperature 0.7" of /set; the value "default" takes a setting back. kInvalidArgument names what is
// possible.
Status set_sampling(ChatSampling& sampling, std::string_view name, std::string_view value);
std::string sampling_text(const ChatSampling& sampling);

struct ChatAnswer {
  std::string text;  // without the reasoning before it
  std::string finish_reason;
  i64 prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  double ttft = 0, seconds = 0;  // since the question
  bool stopped = false;          // by the flag; the text is what had come
};

// Not thread-safe.
class ChatModel {
 public:
  virtual ~ChatModel() = default;
  using OnText = std::function<void(std::string_view piece, bool reasoning)>;
  // Blocks until the answer is complete, or within 0.1 s after the flag given at creation became true.
  virtual Result<ChatAnswer> answer(const OrderedJson& messages, const ChatSampling& sampling,
                                    const OnText& on_text) = 0;
  virtual std::string name() const = 0;
};

// `client` was created with the same flag.
std::unique_ptr<ChatModel> remote_chat(HttpClient client, std::string model, const std::atomic<bool>& stop);
// The engine and the text outlive it.
std::unique_ptr<ChatModel> local_chat(Engine& engine, const server::TextFrontend& text,
                                      const std::atomic<bool>& stop);

}  // namespace trireme::cli
