#include "cli/bench_serve_sharegpt.h"

#include <algorithm>
#include <fstream>

#include "base/json.h"
#include "base/rng.h"

namespace trireme::cli {
namespace {

// [{"conversations": [{"from": ..., "value": ...}, ...]}, ...]: depth 1 is the list, 2 a conversation, 3 its
// turns, 4 a turn.
class Reader final : public nlohmann::json_sax<Json> {
 public:
  Reader(std::size_t count, u64 seed) : count_(count), rng_(seed) {}

  std::vector<ShareGptPair> take() { return std::move(kept_); }
  const std::string& error() const { return error_; }

  bool key(std::string& name) override {
    if (depth_ == 2) in_turns_ = name == "conversations";
    at_value_ = depth_ == 4 && in_turns_ && name == "value";
    return true;
  }
  bool string(std::string& text) override {
    if (at_value_ && turns_ < 2) (turns_++ == 0 ? pair_.question : pair_.answer) = std::move(text);
    at_value_ = false;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ == 1) {
      pair_ = {};
      turns_ = 0;
      in_turns_ = false;
    }
    return deeper();
  }
  bool end_object() override {
    if (--depth_ == 1 && turns_ == 2) consider();
    return true;
  }
  bool start_array(std::size_t) override { return deeper(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool null() override { return scalar(); }
  bool boolean(bool) override { return scalar(); }
  bool number_integer(number_integer_t) override { return scalar(); }
  bool number_unsigned(number_unsigned_t) override { return scalar(); }
  bool number_float(number_float_t, const string_t&) override { return scalar(); }
  bool binary(binary_t&) override { return scalar(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& e) override {
    error_ = e.what();
    return false;
  }

 private:
  bool scalar() {
    at_value_ = false;
    return true;
  }
  bool deeper() {
    at_value_ = false;
    if (++depth_ <= 64) return true;
    error_ = "nested deeper than 64 levels";
    return false;
  }
  // Reservoir sampling: each pair seen so far is kept with the same probability.
  void consider() {
    const int question = estimated_tokens(pair_.question), answer = estimated_tokens(pair_.answer);
    if (question < 4 || answer < 4 || question > 1024 || question + answer > 2048) return;
    if (seen_++ < count_) return kept_.push_back(std::move(pair_));
    const u64 slot = rng_.below(seen_);
    if (slot < count_) kept_[slot] = std::move(pair_);
  }

  std::size_t count_;
  Rng rng_;
  std::vector<ShareGptPair> kept_;
  ShareGptPair pair_;
  std::string error_;
  u64 seen_ = 0;
  int depth_ = 0, turns_ = 0;
  bool in_turns_ = false, at_value_ = false;
};

}  // namespace

int estimated_tokens(std::string_view text) { return static_cast<int>((text.size() + 3) / 4); }

Result<std::vector<ShareGptPair>> sharegpt_pairs(std::istream& in, const std::string& name, int count,
                                                 u64 seed) {
  Reader reader(static_cast<std::size_t>(count), seed);
  if (!Json::sax_parse(in, &reader)) {
    return invalid("{}: not a ShareGPT file: {}", name, reader.error());
  }
  auto pairs = reader.take();
  if (pairs.empty()) {
    return invalid(
        "{}: no conversation of two turns in it; the form is [{{\"conversations\": [{{\"from\": ..., "
        "\"value\": "
        "...}}, ...]}}, ...]",
        name);
  }
  return pairs;
}

Result<std::vector<ShareGptPair>> sharegpt_pairs(const std::string& path, int count, u64 seed) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail(ErrorCode::kNotFound, "cannot open {}; check --dataset-path", path);
  return sharegpt_pairs(in, path, count, seed);
}

}  // namespace trireme::cli
