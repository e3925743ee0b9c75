// A conversation: prompts and commands in, answers out.
#pragma once
#include <functional>
#include <string>

#include "cli/chat_input.h"
#include "cli/chat_model.h"

namespace trireme::cli {

class ChatSession {
 public:
  struct Options {
    std::string system = {};
    ChatSampling sampling = {};
    bool interactive = false;  // figures after each answer, errors do not end it
    bool colour = false;       // dim figures and reasoning
  };
  using Out = std::function<void(std::string_view)>;

  ChatSession(ChatModel& model, Options options, Out out)
      : model_(model), options_(std::move(options)), out_(std::move(out)) {}

  enum class Next { kGoOn, kQuit };
  // A prompt, or a command that starts with a slash. An error of the model or a command that is wrong:
  // nothing was added to the conversation, and the next prompt may be asked.
  Result<Next> take(const std::string& line);

 private:
  Result<Next> command(std::string_view line);
  Status ask(const std::string& prompt);
  void dim(std::string_view text);
  std::string stats_text() const;

  ChatModel& model_;
  Options options_;
  Out out_;
  OrderedJson turns_ = OrderedJson::array();  // without the system message
  struct Totals {
    i64 answers = 0, prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
    double seconds = 0;
  } totals_;
};

}  // namespace trireme::cli
