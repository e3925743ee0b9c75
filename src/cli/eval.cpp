// `trireme eval`: how well a model predicts held-out text.
#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "base/json.h"
#include "cli/model_flags.h"
#include "cli/progress.h"
#include "engine/direct.h"
#include "text/tokenizer.h"

namespace trireme::cli {
namespace {

struct EvalFlags {
  ModelFlags model;
  std::string text, json;
  int limit = 0;
  int chunk = 512;
};

// -log p(token), in nats.
double surprise(std::span<const float> logits, i32 token) {
  float top = logits[0];
  for (const float x : logits) top = std::max(top, x);
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - top));
  return std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(token)] - top);
}

struct Totals {
  double nats = 0;
  i64 tokens = 0, correct = 0, bytes = 0, documents = 0;
};

// One document: every token but the first is predicted from those before it. A document longer than the
// context goes on in a new window, which starts with the beginning-of-text token again.
Status add_document(engine::DirectRunner& runner, const text::Tokenizer& tokenizer,
                    const std::string& document, i64 window, i64 chunk, Totals& totals) {
  ASSIGN(auto body, tokenizer.encode(document));
  const bool has_bos = tokenizer.bos() >= 0;
  const std::size_t room = static_cast<std::size_t>(window) - (has_bos ? 1 : 0);
  for (std::size_t begin = 0; begin < body.size(); begin += room) {
    const auto window_end = std::min(body.size(), begin + room);
    std::vector<i32> ids;
    if (has_bos) ids.push_back(tokenizer.bos());
    for (std::size_t i = begin; i < window_end; ++i) ids.push_back(body[i]);
    runner.restart();
    const auto each = [&](i64 position, std::span<const float> logits) {
      const auto next = static_cast<std::size_t>(position) + 1;
      if (next >= ids.size()) return;
      totals.nats += surprise(logits, ids[next]);
      totals.correct += std::max_element(logits.begin(), logits.end()) - logits.begin() == ids[next];
      ++totals.tokens;
    };
    if (ids.size() > 1) {
      TRY(runner.prefill(ids, chunk, each));
    }
  }
  totals.bytes += static_cast<i64>(document.size());
  ++totals.documents;
  return {};
}

Status run_eval(const EvalFlags& flags) {
  ASSIGN(auto options, flags.model.resolve());
  if (options.dummy) return invalid("eval needs real weights: leave out --load-format dummy");
  if (options.model.empty()) return invalid("no model given: pass --model DIR");
  if (flags.chunk < 1) return invalid("--chunk {}: must be at least 1", flags.chunk);
  ASSIGN(auto tokenizer, text::Tokenizer::load(options.model));
  std::ifstream in(flags.text);
  if (!in) return fail(ErrorCode::kNotFound, "cannot open {}", flags.text);
  ASSIGN(auto runtime, engine::load_runtime(options));
  ASSIGN(auto runner, engine::DirectRunner::create(runtime, runtime.max_model_len));

  const Time begin = SteadyClock().now();
  const auto progress = progress_bar("evaluating", "tokens", 1);
  Totals totals;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (flags.limit > 0 && totals.documents >= flags.limit) break;
    if (line.empty()) continue;
    ASSIGN(auto json, parse_json(line, fmt::format("{}:{}", flags.text, number)));
    if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) {
      return invalid("{}:{}: each line must be {{\"text\": \"...\"}}", flags.text, number);
    }
    TRY(add_document(*runner, *tokenizer, json["text"].get<std::string>(), runtime.max_model_len, flags.chunk,
                     totals));
    if (progress) progress(totals.tokens, 0);
  }
  if (progress) fmt::print(stderr, "\n");
  if (totals.tokens == 0) return invalid("{}: nothing to predict", flags.text);
  const double took = seconds(SteadyClock().now() - begin);
  const double mean = totals.nats / static_cast<double>(totals.tokens);
  const double bits_per_byte = totals.nats / std::log(2.0) / static_cast<double>(totals.bytes);
  const double top1 = static_cast<double>(totals.correct) / static_cast<double>(totals.tokens);
  fmt::print(
      "documents      {}\ntokens         {}\nperplexity     {:.4f}\nbits per byte  {:.4f}\ntop-1          "
      "{:.4f}\ntime           {:.1f} s ({:.0f} tokens/s)\n",
      totals.documents, totals.tokens, std::exp(mean), bits_per_byte, top1, took,
      static_cast<double>(totals.tokens) / took);
  if (!flags.json.empty()) {
    std::ofstream out(flags.json);
    out << Json{{"documents", totals.documents},
                {"tokens", totals.tokens},
                {"perplexity", std::exp(mean)},
                {"bits_per_byte", bits_per_byte},
                {"top1", top1}}
               .dump()
        << "\n";
    if (!out) return fail(ErrorCode::kUnavailable, "cannot write {}", flags.json);
  }
  return {};
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto flags = std::make_shared<EvalFlags>();
  flags->model.add(app);
  app.add_option("--text", flags->text, "JSON lines, each {\"text\": ...}")->required();
  app.add_option("--limit", flags->limit, "Documents to read; 0: all")->capture_default_str();
  app.add_option("--chunk", flags->chunk, "Tokens of one forward pass")->capture_default_str();
  app.add_option("--json", flags->json, "Also write the result here");
  app.callback([flags, &action] { action = [flags] { return run_eval(*flags); }; });
}

}  // namespace trireme::cli
