// `trireme chat`: talk to a model in the terminal.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "cli/chat_session.h"
#include "cli/model_flags.h"
#include "server/model_text.h"

namespace trireme::cli {
namespace {

struct ChatFlags {
  ModelFlags model;
  std::string url, api_key, chat_template, prompt, system;
  ChatSampling sampling;
};

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// One prompt, or those of a pipe: only answers are printed, and the first error ends it.
Status talk_plainly(ChatSession& session, const ChatFlags& flags, const Interrupts& interrupts) {
  if (!flags.prompt.empty()) return session.take(flags.prompt).map([](ChatSession::Next) {});
  PromptReader reader(STDIN_FILENO, interrupts.wake_fd(), {});
  while (true) {
    const auto read = reader.next();
    if (read.kind == PromptReader::Kind::kInterrupted) return fail(ErrorCode::kCancelled, "stopped");
    if (read.kind == PromptReader::Kind::kEnd) return {};
    ASSIGN(const auto next, session.take(read.text));
    if (next == ChatSession::Next::kQuit) return {};
  }
}

Status talk(ChatSession& session, Interrupts& interrupts) {
  PromptReader reader(STDIN_FILENO, interrupts.wake_fd(), [](bool more) { print(more ? "... " : "> "); });
  while (true) {
    const auto read = reader.next();
    if (read.kind == PromptReader::Kind::kEnd ||
        (read.kind == PromptReader::Kind::kInterrupted && !read.dropped)) {
      print("\n");
      return {};
    }
    if (read.kind == PromptReader::Kind::kInterrupted) {
      print("\n");
      interrupts.clear();
      continue;
    }
    const auto next = session.take(read.text);
    interrupts.clear();
    if (!next) fmt::print(stderr, "{}\n", next.error().message);
    if (next && *next == ChatSession::Next::kQuit) return {};
  }
}

Status converse(ChatModel& model, const ChatFlags& flags, Interrupts& interrupts) {
  const bool interactive = flags.prompt.empty() && isatty(STDIN_FILENO) != 0;
  const bool terminal = isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  ChatSession session(
      model,
      {.system = flags.system, .sampling = flags.sampling, .interactive = interactive, .colour = terminal},
      print);
  if (!interactive) return talk_plainly(session, flags, interrupts);
  fmt::print("{}. /help shows the commands, Ctrl-D leaves.\n", safe_text(model.name()));
  return talk(session, interrupts);
}

Status chat_with_server(const ChatFlags& flags) {
  ASSIGN(const auto url, parse_url(flags.url));
  const char* key = std::getenv("TRIREME_API_KEY");
  Interrupts interrupts;
  ASSIGN(auto client, HttpClient::create(url,
                                         !flags.api_key.empty() ? flags.api_key
                                         : key != nullptr       ? key
                                                                : "",
                                         {}, &interrupts.flag()));
  std::string model = flags.model.options.model;
  if (model.empty()) {
    ASSIGN(model, first_model(client));
  }
  const auto chat = remote_chat(std::move(client), model, interrupts.flag());
  return converse(*chat, flags, interrupts);
}

Status chat_in_process(const ChatFlags& flags) {
  ASSIGN(const auto runtime, flags.model.resolve());
  if (runtime.dummy) return invalid("chat needs real weights: leave out --load-format dummy");
  ASSIGN(const auto text, server::load_text_frontend(runtime.model, flags.chat_template));
  engine::EngineOptions options;
  options.runtime = runtime;
  options.max_num_seqs = 1;
  ASSIGN(const auto engine, engine::make_engine(options));
  // Ctrl-C ends the program while the model loads; from here on it stops an answer.
  Interrupts interrupts;
  const auto chat = local_chat(*engine, *text, interrupts.flag());
  return converse(*chat, flags, interrupts);
}

Status run_chat(const ChatFlags& flags) {
  const auto& model = flags.model.options.model;
  if (!flags.url.empty()) return chat_with_server(flags);
  if (model.empty()) return invalid("give --model DIR to load a model, or --url URL to talk to a server");
  std::error_code ignored;
  if (!std::filesystem::is_directory(model, ignored)) {
    return fail(ErrorCode::kNotFound,
                "{}: no such folder; add --url URL if it is the name of a server's model", model);
  }
  return chat_in_process(flags);
}

constexpr const char* kExamples = R"(
Examples:
  trireme chat --model models/trireme-demo
  trireme chat --url http://127.0.0.1:8000
  trireme chat --model models/trireme-demo --prompt "What is in the package curl?" --temperature 0
  echo "What does tar do?" | trireme chat --url http://127.0.0.1:8000
)";

}  // namespace

void add_chat(CLI::App& app, Action& action) {
  auto f = std::make_shared<ChatFlags>();
  auto& s = f->sampling;
  app.footer(kExamples);
  f->model.add(app);
  app.add_option("--url", f->url,
                 "Talk to this server; --model is then the name of its model, default its first");
  app.add_option("--api-key", f->api_key, "With --url: bearer key; also from TRIREME_API_KEY");
  app.add_option("--chat-template", f->chat_template,
                 "Without --url: file with a Jinja chat template instead of the model's own");
  app.add_option("--prompt", f->prompt, "Print the answer to this, and end");
  app.add_option("--system", f->system, "System message");
  app.add_option("--temperature", s.temperature, "0 is greedy");
  app.add_option("--top-p", s.top_p, "Smallest set of tokens with this probability");
  app.add_option("--top-k", s.top_k, "So many best tokens");
  app.add_option("--max-tokens", s.max_tokens, "Most tokens of an answer");
  app.add_option("--seed", s.seed, "The same seed gives the same answer");
  app.callback([f, &action] { action = [f] { return run_chat(*f); }; });
}

}  // namespace trireme::cli
