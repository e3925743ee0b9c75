#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/clock.h"
#include "cli/chat_model.h"

namespace trireme::cli {
namespace {

// Events on their way from the engine's thread.
class Inbox {
 public:
  void push(Event&& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    arrived_.notify_one();
  }
  std::optional<Event> pop(Duration wait) {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, wait, [&] { return !events_.empty(); })) return std::nullopt;
    Event out = std::move(events_.front());
    events_.pop_front();
    return out;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Event> events_;
};

class LocalChat final : public ChatModel {
 public:
  LocalChat(Engine& engine, const server::TextFrontend& text, const std::atomic<bool>& stop)
      : engine_(engine), text_(text), stop_(stop) {}

  std::string name() const override { return engine_.info().name; }

  Result<ChatAnswer> answer(const OrderedJson& messages, const ChatSampling& sampling,
                            const OnText& on_text) override {
    const Time start = SteadyClock().now();
    ASSIGN(auto request, request_of(messages, sampling));
    const auto inbox = std::make_shared<Inbox>();
    ASSIGN(const auto id,
           engine_.submit(std::move(request), [inbox](Event&& event) { inbox->push(std::move(event)); }));
    ChatAnswer out;
    const auto stream = text_.stream({});
    const auto add = [&](const server::StreamText::Piece& piece) {
      out.text += piece.text;
      if (!piece.text.empty()) on_text(piece.text, false);
    };
    for (bool cancelled = false;;) {
      if (stop_.load() && !cancelled) {
        engine_.cancel(id);
        cancelled = true;
      }
      auto event = inbox->pop(std::chrono::milliseconds(50));
      if (!event) continue;
      if (!event->tokens.empty() && out.output_tokens == 0) out.ttft = seconds(SteadyClock().now() - start);
      out.prompt_tokens = event->prompt_tokens;
      out.cached_tokens = std::max<i64>(out.cached_tokens, event->cached_tokens);
      for (const auto& token : event->tokens) {
        ++out.output_tokens;
        if (!is_end(token.id)) add(stream->push(token.id));
      }
      if (event->finish == FinishReason::kNone) continue;
      add(stream->flush());
      out.seconds = seconds(SteadyClock().now() - start);
      out.stopped = event->finish == FinishReason::kCancelled;
      out.finish_reason = to_string(event->finish);
      if (event->error) return tl::unexpected(*event->error);
      return out;
    }
  }

 private:
  bool is_end(i32 id) const {
    const auto& eos = engine_.info().eos_ids;
    return std::find(eos.begin(), eos.end(), id) != eos.end();
  }

  Result<Request> request_of(const OrderedJson& messages, const ChatSampling& s) const {
    Request out;
    server::ChatPrompt prompt;
    prompt.messages = messages;
    ASSIGN(out.prompt, text_.encode_chat(prompt));
    const int room = engine_.info().max_model_len - static_cast<int>(out.prompt.size());
    if (room <= 0) {
      return invalid("the conversation has {} tokens and the model's context {}; /clear starts a new one",
                     out.prompt.size(), engine_.info().max_model_len);
    }
    out.sampling.max_tokens = std::min(room, s.max_tokens.value_or(room));
    if (s.temperature) out.sampling.temperature = *s.temperature;
    if (s.top_p) out.sampling.top_p = *s.top_p;
    if (s.top_k) out.sampling.top_k = *s.top_k;
    out.sampling.seed = s.seed;
    return out;
  }

  Engine& engine_;
  const server::TextFrontend& text_;
  const std::atomic<bool>& stop_;
};

}  // namespace

std::unique_ptr<ChatModel> local_chat(Engine& engine, const server::TextFrontend& text,
                                      const std::atomic<bool>& stop) {
  return std::make_unique<LocalChat>(engine, text, stop);
}

}  // namespace trireme::cli
