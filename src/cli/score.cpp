// `trireme score`: what the model thinks of prompts, as numbers: for comparing engines with one another.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "base/json.h"
#include "cli/model_flags.h"
#include "cli/progress.h"
#include "engine/direct.h"
#include "server/model_text.h"

namespace trireme::cli {
namespace {

struct ScoreFlags {
  ModelFlags model;
  std::string input, output;
  int chunk = 512;
};

struct Prompt {
  Json id;
  std::vector<i32> tokens;
  int max_tokens = 48, top_logits = 20;
};

Result<int> integer(const Json& line, const char* key, int fallback, int low, int high) {
  if (!line.contains(key)) return fallback;
  const auto& v = line[key];
  if (!v.is_number_integer() || v.get<double>() < low || v.get<double>() > high)
    return invalid("{} must be a whole number from {} to {}", key, low, high);
  return v.get<int>();
}

Result<std::vector<i32>> token_ids(const Json& list, i64 vocab) {
  if (!list.is_array()) return invalid("token_ids must be a list of token ids");
  std::vector<i32> ids;
  for (const auto& id : list) {
    if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() >= static_cast<double>(vocab)) {
      return invalid("token_ids: {} is not a token of this model (0 to {})", id.dump(), vocab - 1);
    }
    ids.push_back(id.get<i32>());
  }
  return ids;
}

class Reader {
 public:
  Reader(const server::TextFrontend* text, i64 vocab) : text_(text), vocab_(vocab) {}

  Result<Prompt> read(const std::string& line, const std::string& where) const {
    ASSIGN(auto json, parse_ordered_json(line, where));
    if (!json.is_object()) return invalid("each line must be a JSON object");
    const Json plain = json;
    Prompt p;
    if (plain.contains("id")) p.id = plain["id"];
    ASSIGN(p.max_tokens, integer(plain, "max_tokens", 48, 0, 1 << 20));
    ASSIGN(p.top_logits, integer(plain, "top_logits", 20, 1, 1 << 20));
    if (plain.contains("token_ids")) {
      ASSIGN(p.tokens, token_ids(plain["token_ids"], vocab_));
      return p;
    }
    if (!text_) return invalid("this model has no tokenizer: give token_ids");
    if (plain.contains("messages")) {
      server::ChatPrompt chat;
      chat.messages = json["messages"];
      if (json.contains("tools")) chat.tools = json["tools"];
      ASSIGN(p.tokens, text_->encode_chat(chat));
    } else if (plain.contains("text") && plain["text"].is_string()) {
      // The operator's own text: special tokens spelled in it are meant. One that starts with the beginning
      // of text itself, as rendered chat templates do, does not get it twice.
      ASSIGN(p.tokens, text_->encode(plain["text"].get<std::string>(),
                                     {.add_special_tokens = true, .parse_special = true}));
      ASSIGN(const auto around, text_->encode("", {}));
      if (around.size() == 1 && p.tokens.size() > 1 && p.tokens[0] == around[0] && p.tokens[1] == around[0]) {
        p.tokens.erase(p.tokens.begin());
      }
    } else {
      return invalid("each line needs \"text\", \"messages\" or \"token_ids\"");
    }
    return p;
  }

 private:
  const server::TextFrontend* text_;
  i64 vocab_;
};

// The n best (id, logit), ties to the lower id.
std::vector<std::pair<i32, float>> best(const std::vector<float>& logits, int n) {
  std::vector<i32> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min(static_cast<std::size_t>(n), ids.size());
  std::partial_sort(
      ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(), [&](i32 a, i32 b) {
        const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
        return x != y ? x > y : a < b;
      });
  std::vector<std::pair<i32, float>> out;
  for (std::size_t i = 0; i < count; ++i) out.emplace_back(ids[i], logits[static_cast<std::size_t>(ids[i])]);
  return out;
}

Result<Json> score(engine::DirectRunner& runner, const Prompt& p, int chunk) {
  runner.restart();
  ASSIGN(auto logits, runner.prefill(p.tokens, chunk));
  Json top = Json::array();
  for (const auto& [id, logit] : best(logits, p.top_logits)) top.push_back({id, logit});
  Json ids = Json::array(), steps = Json::array();
  // The end of sequence is a token like others here, so that continuations can be compared step by step.
  for (int i = 0; i < p.max_tokens; ++i) {
    const auto two = best(logits, 2);
    ids.push_back(two[0].first);
    steps.push_back({two[0].first, two[0].second, two[1].first, two[1].second});
    if (i + 1 == p.max_tokens) break;
    ASSIGN(logits, runner.decode_one(two[0].first));
  }
  return Json{{"id", p.id},
              {"prompt_token_ids", p.tokens},
              {"top_logits", top},
              {"continuation_ids", ids},
              {"step_top2", steps}};
}

Status run_score(const ScoreFlags& flags) {
  ASSIGN(auto options, flags.model.resolve());
  if (flags.chunk < 1) return invalid("--chunk {}: must be at least 1", flags.chunk);
  std::ifstream in(flags.input);
  if (!in) return fail(ErrorCode::kNotFound, "cannot open {}", flags.input);
  std::unique_ptr<server::TextFrontend> text;
  if (!options.dummy) {
    // A checkpoint without a tokenizer can still be scored on token_ids.
    auto loaded = server::load_text_frontend(options.model);
    if (loaded) {
      text = std::move(*loaded);
    } else if (loaded.error().code != ErrorCode::kNotFound) {
      return tl::unexpected(std::move(loaded).error());
    }
  }
  ASSIGN(auto runtime, engine::load_runtime(options));
  ASSIGN(auto runner, engine::DirectRunner::create(runtime, runtime.max_model_len));
  const Reader reader(text.get(), runtime.config.vocab_size);

  std::ofstream out(flags.output);
  if (!out) return fail(ErrorCode::kNotFound, "cannot write {}", flags.output);
  const auto progress = progress_bar("scoring", "prompts", 1);
  std::string line;
  int number = 0, done = 0;
  while (std::getline(in, line)) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("{}:{}", flags.input, number);
    const auto in_line = [&](Error e) {
      return tl::unexpected(Error{e.code, fmt::format("{}: {}", where, e.message)});
    };
    auto prompt = reader.read(line, where);
    if (!prompt) return in_line(prompt.error());
    if (prompt->tokens.empty()) return invalid("{}: the prompt has no tokens", where);
    if (static_cast<i64>(prompt->tokens.size()) + prompt->max_tokens > runtime.max_model_len) {
      return invalid("{}: {} prompt tokens and max_tokens {} are more than the context of {}", where,
                     prompt->tokens.size(), prompt->max_tokens, runtime.max_model_len);
    }
    auto result = score(*runner, *prompt, flags.chunk);
    if (!result) return in_line(result.error());
    out << to_text(*result) << "\n";
    if (progress) progress(++done, 0);
  }
  if (progress) fmt::print(stderr, "\n");
  out.flush();
  if (!out) return fail(ErrorCode::kUnavailable, "{}: could not be written to its end", flags.output);
  return {};
}

}  // namespace

void add_score(CLI::App& app, Action& action) {
  auto flags = std::make_shared<ScoreFlags>();
  flags->model.add(app);
  app.add_option("--input", flags->input,
                 "JSON lines: {\"id\", \"text\" or \"messages\" or \"token_ids\", \"max_tokens\": 48, "
                 "\"top_logits\": 20}")
      ->required();
  app.add_option(
         "--output", flags->output,
         "JSON lines: {\"id\", \"prompt_token_ids\", \"top_logits\", \"continuation_ids\", \"step_top2\"}")
      ->required();
  app.add_option("--chunk", flags->chunk, "Tokens of one forward pass")->capture_default_str();
  app.callback([flags, &action] { action = [flags] { return run_score(*flags); }; });
}

}  // namespace trireme::cli
