// What a serving bench asks: random prompts, ShareGPT conversations, or a file of prompts.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "base/types.h"

namespace trireme::cli {

enum class Dataset { kRandom, kShareGpt, kPrompts };
Result<Dataset> parse_dataset(const std::string& name);

struct PromptOptions {
  Dataset dataset = Dataset::kRandom;
  std::string path;  // of the file, for kShareGpt and kPrompts
  int count = 0;     // prompts to make; a file that has fewer starts again
  u64 seed = 0;
  int input_len = 512;         // random: tokens
  int output_len = 128;        // max_tokens; for a file, 0: what the file says
  double range_ratio = 0;      // random: lengths are uniform in [len * (1 - r), len * (1 + r)]
  int shared_prefix_len = 0;   // random: tokens at the start that all prompts share, beside input_len
  int vocab_size = 4000;       // random: ids are drawn from the middle of [0, vocab_size)
  double words_per_token = 1;  // random text: how many words make a token
};

struct BenchPrompt {
  Json content;        // completions: "prompt", a string or ids; chat: "messages"
  int max_tokens = 0;  // as the file says; 0: it does not
};

// REQUIRES: count >= 1. Errors name the file and the line.
Result<std::vector<BenchPrompt>> make_prompts(const PromptOptions& options, bool chat);

struct BodyOptions {
  std::string model;
  bool chat = false;
  bool ignore_eos = false;
  double temperature = 0;
};
// The body of a streamed request.
std::string request_body(const BenchPrompt& prompt, const BodyOptions& options);

}  // namespace trireme::cli
