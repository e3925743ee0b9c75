// A subcommand: adds its flags to the parser and says what to do once they are read.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <vector>

#include "base/result.h"

namespace trireme::cli {

using Action = std::function<Status()>;

struct Command {
  const char* name;
  const char* about;
  // The action runs after parsing, when this subcommand was chosen.
  void (*add)(CLI::App& app, Action& action);
};

void add_serve(CLI::App&, Action&);
void add_chat(CLI::App&, Action&);
void add_score(CLI::App&, Action&);
void add_eval(CLI::App&, Action&);
void add_inspect(CLI::App&, Action&);
void add_bench(CLI::App&, Action&);

// The whole program. Returns the exit code: 0, 1 for an error of the world, 2 for a wrong command line.
int run(int argc, const char* const* argv);

}  // namespace trireme::cli
