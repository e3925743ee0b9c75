#include "cli/bench_serve_prompts.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/rng.h"
#include "cli/bench_serve_sharegpt.h"

namespace trireme::cli {
namespace {

constexpr const char* kWords[] = {
    "time",  "house", "river", "stone",  "light",   "paper",  "green",  "north", "winter", "letter", "road",
    "table", "glass", "field", "water",  "morning", "small",  "large",  "open",  "carry",  "follow", "answer",
    "write", "sound", "cloud", "garden", "silver",  "number", "simple", "early", "under",  "between"};

int draw_length(Rng& rng, int mean, double ratio) {
  const auto low = static_cast<i64>(std::floor(mean * (1 - ratio)));
  const auto high = static_cast<i64>(std::ceil(mean * (1 + ratio)));
  return static_cast<int>(
      std::max<i64>(1, low + static_cast<i64>(rng.below(static_cast<u64>(high - low + 1)))));
}

std::vector<i32> random_ids(Rng& rng, int n, int vocab) {
  // Special tokens and single bytes stand at the ends of most vocabularies.
  const i32 low = vocab / 4, high = std::max(low + 1, vocab - vocab / 4);
  std::vector<i32> out(static_cast<std::size_t>(n));
  for (auto& id : out) id = low + static_cast<i32>(rng.below(static_cast<u64>(high - low)));
  return out;
}

std::string random_words(Rng& rng, int tokens, double words_per_token) {
  std::string out;
  const auto words = std::max<i64>(1, std::llround(tokens * words_per_token));
  for (i64 i = 0; i < words; ++i) {
    if (i > 0) out += ' ';
    out += kWords[rng.below(std::size(kWords))];
  }
  return out;
}

Json user_message(const std::string& text) { return Json::array({{{"role", "user"}, {"content", text}}}); }

std::vector<BenchPrompt> random_prompts(const PromptOptions& o, bool chat) {
  Rng rng(o.seed);
  std::vector<BenchPrompt> out(static_cast<std::size_t>(o.count));
  const auto prefix_ids = random_ids(rng, o.shared_prefix_len, o.vocab_size);
  std::string prefix_text;
  if (o.shared_prefix_len > 0) prefix_text = random_words(rng, o.shared_prefix_len, o.words_per_token) + ' ';
  for (auto& prompt : out) {
    const int length = draw_length(rng, o.input_len, o.range_ratio);
    if (chat) {
      prompt.content = user_message(prefix_text + random_words(rng, length, o.words_per_token));
    } else {
      auto ids = prefix_ids;
      const auto own = random_ids(rng, length, o.vocab_size);
      ids.insert(ids.end(), own.begin(), own.end());
      prompt.content = ids;
    }
    prompt.max_tokens = draw_length(rng, o.output_len, o.range_ratio);
  }
  return out;
}

Result<BenchPrompt> prompt_of_line(const Json& line, bool chat, const std::string& where) {
  BenchPrompt out;
  if (!line.is_object()) return invalid("{}: each line must be a JSON object", where);
  if (const auto most = line.find("max_tokens"); most != line.end()) {
    if (!most->is_number_integer() || *most < 1 || *most > (1 << 30)) {
      return invalid("{}: max_tokens must be a whole number of at least 1", where);
    }
    out.max_tokens = most->get<int>();
  }
  const auto messages = line.find("messages"), prompt = line.find("prompt");
  if (messages != line.end() && messages->is_array()) {
    if (!chat) return invalid("{}: it has messages; add --endpoint chat", where);
    out.content = *messages;
    return out;
  }
  if (prompt == line.end() || !(prompt->is_string() || prompt->is_array())) {
    return invalid("{}: each line must hold \"prompt\" or \"messages\"", where);
  }
  if (chat && !prompt->is_string()) return invalid("{}: token ids need --endpoint completions", where);
  out.content = chat ? user_message(prompt->get<std::string>()) : *prompt;
  return out;
}

Result<std::vector<BenchPrompt>> prompts_of_file(const PromptOptions& o, bool chat) {
  std::ifstream in(o.path);
  if (!in) return fail(ErrorCode::kNotFound, "cannot open {}; check --dataset-path", o.path);
  std::vector<BenchPrompt> out;
  std::string line;
  for (int number = 1; std::getline(in, line) && static_cast<int>(out.size()) < o.count; ++number) {
    if (line.empty()) continue;
    const auto where = fmt::format("{}:{}", o.path, number);
    ASSIGN(auto json, parse_json(line, where));
    ASSIGN(auto prompt, prompt_of_line(json, chat, where));
    out.push_back(std::move(prompt));
  }
  return out;
}

Result<std::vector<BenchPrompt>> prompts_of_sharegpt(const PromptOptions& o, bool chat) {
  ASSIGN(auto pairs, sharegpt_pairs(o.path, o.count, o.seed));
  std::vector<BenchPrompt> out;
  for (const auto& pair : pairs) {
    BenchPrompt prompt;
    prompt.content = chat ? user_message(pair.question) : Json(pair.question);
    prompt.max_tokens = estimated_tokens(pair.answer);
    out.push_back(std::move(prompt));
  }
  return out;
}

}  // namespace

Result<Dataset> parse_dataset(const std::string& name) {
  if (name == "random") return Dataset::kRandom;
  if (name == "sharegpt") return Dataset::kShareGpt;
  if (name == "prompts") return Dataset::kPrompts;
  return invalid("--dataset {}: use random, sharegpt or prompts", name);
}

Result<std::vector<BenchPrompt>> make_prompts(const PromptOptions& o, bool chat) {
  if (o.dataset == Dataset::kRandom) return random_prompts(o, chat);
  ASSIGN(auto out, o.dataset == Dataset::kShareGpt ? prompts_of_sharegpt(o, chat) : prompts_of_file(o, chat));
  if (out.empty()) return invalid("{}: no prompt in it", o.path);
  const std::size_t distinct = out.size();
  for (auto& prompt : out) {
    if (o.output_len > 0) prompt.max_tokens = o.output_len;
    if (prompt.max_tokens == 0) prompt.max_tokens = 128;
  }
  out.reserve(static_cast<std::size_t>(o.count));
  for (std::size_t i = 0; out.size() < static_cast<std::size_t>(o.count); ++i)
    out.push_back(out[i % distinct]);
  return out;
}

std::string request_body(const BenchPrompt& prompt, const BodyOptions& o) {
  Json body{{"model", o.model},
            {o.chat ? "messages" : "prompt", prompt.content},
            {"max_tokens", prompt.max_tokens},
            {"temperature", o.temperature},
            {"stream", true},
            {"stream_options", {{"include_usage", true}}}};
  if (o.ignore_eos) body["ignore_eos"] = true;
  return to_text(body);
}

}  // namespace trireme::cli
