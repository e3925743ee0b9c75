// trireme_text_bench MODEL_DIR TEXT_FILE [seconds]: MB/s of Tokenizer::encode on one core. TEXT_FILE is plain
// text, or .jsonl with {"text"} a line. Cold: a fresh tokenizer, so every cache is empty; warm: the same text
// again.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace {

using trireme::text::Tokenizer;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

trireme::Result<std::vector<std::string>> read_texts(const std::string& path) {
  ASSIGN(const std::string all, trireme::read_text_file(path, 1u << 30));
  if (!path.ends_with(".jsonl")) return std::vector<std::string>{all};
  std::vector<std::string> texts;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = std::min(all.find('\n', at), all.size());
    ASSIGN(const auto line, trireme::parse_json(std::string_view(all).substr(at, end - at), path));
    texts.push_back(line.at("text").get<std::string>());
    at = end + 1;
  }
  return texts;
}

trireme::Status bench(const std::string& model, const std::string& path, double limit) {
  ASSIGN(const auto texts, read_texts(path));
  std::size_t bytes = 0, tokens = 0;
  for (const auto& text : texts) bytes += text.size();
  const double megabytes = static_cast<double>(bytes) / 1e6;
  const auto pass = [&](const Tokenizer& tokenizer) -> trireme::Result<double> {
    const auto start = Clock::now();
    tokens = 0;
    for (const auto& text : texts) {
      ASSIGN(const auto ids, tokenizer.encode(text));
      tokens += ids.size();
    }
    return seconds_since(start);
  };
  const auto load_start = Clock::now();
  ASSIGN(auto tokenizer, Tokenizer::load(model));
  const double load = seconds_since(load_start);
  ASSIGN(const double cold, pass(*tokenizer));
  std::vector<double> warm;
  for (const auto start = Clock::now(); seconds_since(start) < limit || warm.size() < 3;) {
    ASSIGN(const double once, pass(*tokenizer));
    warm.push_back(once);
  }
  std::sort(warm.begin(), warm.end());
  std::printf("%zu texts, %.3f MB, %zu tokens (%.2f bytes a token); load %.0f ms\n", texts.size(), megabytes,
              tokens, static_cast<double>(bytes) / static_cast<double>(tokens), load * 1e3);
  std::printf("cold %.1f MB/s; warm median %.1f MB/s, best %.1f MB/s over %zu passes\n", megabytes / cold,
              megabytes / warm[warm.size() / 2], megabytes / warm[0], warm.size());
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s MODEL_DIR TEXT_FILE [seconds]\n", argv[0]);
    return 2;
  }
  const auto done = bench(argv[1], argv[2], argc > 3 ? std::atof(argv[3]) : 3.0);
  if (!done) std::fprintf(stderr, "%s\n", done.error().message.c_str());
  return done ? 0 : 1;
}
