// One generation request on its way: its choices in the engine, their text, and the bytes that are to be
// sent. Belongs to one connection's thread; only the engine's events come from elsewhere, through the
// mailbox.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/mailbox.h"
#include "server/openai/request.h"
#include "server/openai/response_writer.h"
#include "server/server_metrics.h"

namespace trireme::server {

class Generation final : public EventTarget, public std::enable_shared_from_this<Generation> {
 public:
  struct Home {
    Engine& engine;
    const TextFrontend& text;
    ServerMetrics& metrics;
    std::shared_ptr<Mailbox> mailbox;
    std::string model;   // as answers name it
    std::string tenant;  // whose share it counts against
  };
  // `arrived`: when the request's last byte came. `wake` is called when there is something new to look at.
  Generation(Home home, PreparedRequest prepared, std::string id, Time arrived, std::function<void()> wake);
  ~Generation() override;

  // Hands all choices to the engine, or none.
  ApiResult<void> submit();
  // The client is gone, or all was sent: what still runs is cancelled, and `wake` is never called again.
  void detach();
  // Ends what still runs; clients see the error.
  void fail(ApiError error);

  bool stream() const { return request_.stream; }
  bool started() const { return started_; }  // an event has come
  bool done() const { return done_; }
  const std::optional<ApiError>& error() const { return error_; }

  // Stream: the SSE bytes that wait to be sent.
  void open_stream();  // before the first bytes; writes the chunks that name the role
  std::string& output() { return output_; }
  // Not a stream, done and without error: the answer.
  std::string whole_answer() const;

  Usage usage() const;
  double first_token_s() const { return first_token_s_; }  // since `arrived`; -1: none yet

  void on_event(int choice, Event&& event, Time at) override;

 private:
  struct Choice {
    std::unique_ptr<StreamText> text;
    std::optional<LogprobsWriter> logprobs;
    std::optional<RequestId> id;
    ChoiceResult result;
    std::string piece;  // new text since the last chunk
    i64 tokens = 0;
    int prompt_tokens = 0, cached_tokens = 0;
    Time last_token{};
    bool done = false;
  };

  void take_token(Choice& choice, const OutputToken& token, bool hidden, Time at);
  void finish_choice(Choice& choice, std::string_view reason, Time at);
  void end_all();
  void write_chunks(int index, Choice& choice);
  bool hidden_stop(const Event& event) const;

  Home home_;
  GenerationRequest request_;
  std::vector<std::vector<TokenId>> prompts_;
  std::vector<std::string> echoes_;
  std::vector<i64> prompt_sizes_;
  ResponseWriter writer_;
  Time arrived_;
  std::function<void()> wake_;
  std::vector<Choice> choices_;
  std::string output_;
  std::optional<ApiError> error_;
  double first_token_s_ = -1;
  int open_choices_ = 0;
  bool started_ = false;
  bool stream_open_ = false;
  bool done_ = false;
};

}  // namespace trireme::server
