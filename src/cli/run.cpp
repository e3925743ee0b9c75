#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <new>

#include "base/log.h"
#include "cli/command.h"

namespace trireme::cli {
namespace {

constexpr Command kCommands[] = {
    {"serve", "Serve a model over the OpenAI API, with metrics and a chat page at /", add_serve},
    {"chat", "Talk to a model in the terminal, streamed", add_chat},
    {"score", "Logits and greedy continuations of prompts, as JSON lines", add_score},
    {"eval", "Perplexity and bits per byte of held-out text", add_eval},
    {"inspect", "What a model is and the memory it takes, before anything loads", add_inspect},
    {"bench", "Measure: kernels, decode, prefill, serve", add_bench},
};

constexpr const char* kExamples = R"(
Examples:
  trireme serve --model models/trireme-demo
  trireme chat --model models/trireme-demo
  trireme bench decode --geometry llama-1b
  trireme COMMAND --help
)";

}  // namespace

int run(int argc, const char* const* argv) {
  CLI::App app("Trireme serves large mixture-of-experts language models: prefill, decode, experts.",
               "trireme");
  app.set_version_flag("--version", "trireme " TRIREME_VERSION);
  app.footer(kExamples);
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(
      CLI::MultiOptionPolicy::TakeLast);  // as in other tools: the last one counts
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "trace, debug, info, warning, error or off")
      ->capture_default_str();
  app.fallthrough();

  // CLI11 would only say that a subcommand is required.
  if (argc > 1 && argv[1][0] != '-' &&
      std::none_of(std::begin(kCommands), std::end(kCommands),
                   [&](const Command& c) { return std::string_view(c.name) == argv[1]; })) {
    fmt::print(stderr, "trireme: there is no command \"{}\"; trireme --help lists them\n", one_line(argv[1]));
    return 2;
  }
  Action action;
  for (const auto& c : kCommands) c.add(*app.add_subcommand(c.name, c.about), action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : 2;
  }
  try {
    // A conversation is no place for a server's log.
    if (app.got_subcommand("chat") && app.count("--log-level") == 0) log_level = "warning";
    Status done = configure_log(log_level);
    if (done) done = action();
    if (done) return 0;
    fmt::print(stderr, "trireme: {}\n", done.error().message);
    return done.error().code == ErrorCode::kInvalidArgument ? 2 : 1;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "trireme: out of memory\n");
  } catch (const std::exception& e) {
    fmt::print(stderr, "trireme: {}\n", e.what());
  }
  return 1;
}

}  // namespace trireme::cli
