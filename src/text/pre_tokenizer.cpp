#include "text/pre_tokenizer.h"

#include <algorithm>

#include "text/json_fields.h"
#include "text/normalizer.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

constexpr std::string_view kMetaSpace = "\xE2\x96\x81";  // U+2581

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep final : PreTokenStep {
  Regex pattern;
  Behavior behavior;
  bool invert;

  SplitStep(Regex p, Behavior b, bool i) : pattern(std::move(p)), behavior(b), invert(i) {}

  struct Range {
    std::size_t begin, end;
    bool delimiter;
  };

  Status apply(std::string_view piece, bool, Pieces& out) const override {
    std::vector<Range> ranges;
    std::size_t done = 0;
    TRY(pattern.for_each(piece, [&](std::size_t begin, std::size_t end) {
      if (begin > done) ranges.push_back({done, begin, invert});
      ranges.push_back({begin, end, !invert});
      done = end;
    }));
    if (done < piece.size()) ranges.push_back({done, piece.size(), invert});
    for (const Range& r : merged(ranges)) {
      if (r.delimiter && behavior == Behavior::kRemoved) continue;
      out.words.push_back(piece.substr(r.begin, r.end - r.begin));
    }
    return {};
  }

  std::vector<Range> merged(const std::vector<Range>& in) const {
    if (behavior == Behavior::kIsolated || behavior == Behavior::kRemoved) return in;
    std::vector<Range> out;
    for (std::size_t i = 0; i < in.size(); ++i) {
      const bool after_word = i > 0 && !in[i - 1].delimiter;
      const bool after_delimiter = i > 0 && in[i - 1].delimiter;
      const bool join = behavior == Behavior::kContiguous ? i > 0 && in[i].delimiter == in[i - 1].delimiter
                        : behavior == Behavior::kMergedWithPrevious ? in[i].delimiter && after_word
                                                                    : !in[i].delimiter && after_delimiter;
      if (join) {
        out.back().end = in[i].end;
      } else {
        out.push_back(in[i]);
      }
    }
    return out;
  }
};

// Steps whose pieces one scanner finds.
struct ScannerStep final : PreTokenStep {
  ScannerKind kind;
  explicit ScannerStep(ScannerKind k) : kind(k) {}
  Status apply(std::string_view piece, bool, Pieces& out) const override {
    std::size_t ends[128], pos = 0, from = 0;
    while (const std::size_t n = scan(kind, piece, pos, ends)) {
      for (std::size_t i = 0; i < n; ++i) {
        out.words.push_back(piece.substr(from, ends[i] - from));
        from = ends[i];
      }
    }
    return {};
  }
};

struct PrefixSpaceStep final : PreTokenStep {
  Status apply(std::string_view piece, bool, Pieces& out) const override {
    if (piece.starts_with(' ')) {
      out.words.push_back(piece);
    } else {
      out.words.push_back(out.made.emplace_back(" " + std::string(piece)));
    }
    return {};
  }
};

struct DigitsStep final : PreTokenStep {
  bool individual;
  explicit DigitsStep(bool i) : individual(i) {}
  Status apply(std::string_view piece, bool, Pieces& out) const override {
    const CharTable& table = CharTable::instance();
    std::size_t from = 0;
    bool was_number = false;
    for (std::size_t pos = 0; pos < piece.size();) {
      const CodePoint c = decode_at(piece, pos);
      const bool number = (table[c.value] & kNumber) != 0;
      if (pos > from && (number != was_number || (number && individual))) {
        out.words.push_back(piece.substr(from, pos - from));
        from = pos;
      }
      was_number = number;
      pos += c.bytes;
    }
    if (from < piece.size()) out.words.push_back(piece.substr(from));
    return {};
  }
};

struct MetaspaceStep final : PreTokenStep {
  std::string replacement;
  std::string scheme;
  bool cut;
  MetaspaceStep(std::string r, std::string s, bool c)
      : replacement(std::move(r)), scheme(std::move(s)), cut(c) {}
  Status apply(std::string_view piece, bool first, Pieces& out) const override {
    std::string text;
    for (const char c : piece) {
      if (c == ' ') {
        text.append(replacement);
      } else {
        text.push_back(c);
      }
    }
    const bool prepend = scheme == "always" || (scheme == "first" && first);
    if (prepend && !text.starts_with(replacement)) text.insert(0, replacement);
    const std::string_view whole = out.made.emplace_back(std::move(text));
    std::size_t from = 0;
    while (cut && from < whole.size()) {
      const std::size_t next = whole.find(replacement, from + 1);
      if (next == std::string_view::npos) break;
      out.words.push_back(whole.substr(from, next - from));
      from = next;
    }
    if (from < whole.size()) out.words.push_back(whole.substr(from));
    return {};
  }
};

Result<Behavior> behavior_of(const std::string& name) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return fail(ErrorCode::kUnsupported, "tokenizer.json: Split behavior '{}' is not supported", name);
}

}  // namespace

Result<PreTokenizer> PreTokenizer::parse(const Json& json, bool use_scanners) {
  PreTokenizer made;
  TRY(made.add(json, 0));
  if (use_scanners) made.recognise();
  return made;
}

Status PreTokenizer::add(const Json& json, int depth) {
  if (json.is_null()) return {};
  ASSIGN(const std::string type, string_field(json, "type", "pre_tokenizer"));
  if (type == "Sequence") {
    if (depth > 4) return invalid("pre_tokenizer: Sequences nested too deeply");
    ASSIGN(const Json* list, array_field(json, "pretokenizers", "pre_tokenizer Sequence"));
    if (list->size() > 64) return invalid("pre_tokenizer: more than 64 steps");
    for (const Json& step : *list) TRY(add(step, depth + 1));
    return {};
  }
  if (type == "Split") return add_split(json);
  if (type == "ByteLevel") {
    byte_level_ = true;
    ASSIGN(const bool prefix, bool_field(json, "add_prefix_space", true, "pre_tokenizer ByteLevel"));
    ASSIGN(const bool regex, bool_field(json, "use_regex", true, "pre_tokenizer ByteLevel"));
    if (prefix) {
      steps_.push_back(std::make_shared<PrefixSpaceStep>());
      plain_ = false;
    }
    if (regex) {
      const std::string_view pattern = patterns_of(ScannerKind::kGpt2)[0];
      ASSIGN(Regex compiled, Regex::compile(pattern));
      steps_.push_back(std::make_shared<SplitStep>(std::move(compiled), Behavior::kIsolated, false));
      isolated_patterns_.emplace_back(pattern);
    }
    return {};
  }
  plain_ = false;
  if (type == "Digits") {
    ASSIGN(const bool individual, bool_field(json, "individual_digits", false, "pre_tokenizer Digits"));
    steps_.push_back(std::make_shared<DigitsStep>(individual));
    return {};
  }
  if (type == "Metaspace") {
    std::string replacement(kMetaSpace), scheme = "always";
    if (json.contains("replacement")) {
      ASSIGN(replacement, string_field(json, "replacement", "pre_tokenizer Metaspace"));
    }
    if (json.contains("prepend_scheme")) {
      ASSIGN(scheme, string_field(json, "prepend_scheme", "pre_tokenizer Metaspace"));
    } else if (json.contains("add_prefix_space")) {
      ASSIGN(const bool add, bool_field(json, "add_prefix_space", true, "pre_tokenizer Metaspace"));
      scheme = add ? "always" : "never";
    }
    if (replacement.empty() || (scheme != "always" && scheme != "first" && scheme != "never")) {
      return invalid("pre_tokenizer Metaspace: prepend_scheme '{}' is not always, first or never", scheme);
    }
    ASSIGN(const bool cut, bool_field(json, "split", true, "pre_tokenizer Metaspace"));
    steps_.push_back(std::make_shared<MetaspaceStep>(std::move(replacement), std::move(scheme), cut));
    return {};
  }
  return fail(ErrorCode::kUnsupported, "tokenizer.json: pre_tokenizer type '{}' is not supported", type);
}

Status PreTokenizer::add_split(const Json& json) {
  ASSIGN(const std::string name, string_field(json, "behavior", "pre_tokenizer Split"));
  ASSIGN(const Behavior behavior, behavior_of(name));
  ASSIGN(const bool invert, bool_field(json, "invert", false, "pre_tokenizer Split"));
  const auto pattern = json.find("pattern");
  if (pattern == json.end()) return invalid("pre_tokenizer Split: \"pattern\" is missing");
  ASSIGN(Regex compiled, parse_pattern(*pattern, "pre_tokenizer Split"));
  steps_.push_back(std::make_shared<SplitStep>(std::move(compiled), behavior, invert));
  const auto regex = pattern->find("Regex");
  const std::string text = regex == pattern->end() ? std::string() : regex->get<std::string>();
  // Removing what does not match changes nothing when the pattern covers all text.
  const bool covers = text == patterns_of(ScannerKind::kCl100k)[0] ||
                      text == patterns_of(ScannerKind::kQwen2)[0] ||
                      text == patterns_of(ScannerKind::kGpt2)[0];
  if ((behavior == Behavior::kIsolated && !invert) || (behavior == Behavior::kRemoved && invert && covers)) {
    isolated_patterns_.push_back(text);
  } else {
    plain_ = false;
  }
  return {};
}

void PreTokenizer::recognise() {
  if (!plain_) return;
  for (const ScannerKind kind :
       {ScannerKind::kDeepSeekV3, ScannerKind::kGpt2, ScannerKind::kCl100k, ScannerKind::kQwen2}) {
    const auto patterns = patterns_of(kind);
    if (std::equal(patterns.begin(), patterns.end(), isolated_patterns_.begin(), isolated_patterns_.end())) {
      scanner_ = kind;
      steps_ = {std::make_shared<ScannerStep>(kind)};
    }
  }
}

Status PreTokenizer::split(std::string_view chunk, bool first, Pieces& out) const {
  out.words.assign(chunk.empty() ? 0 : 1, chunk);
  for (const auto& step : steps_) {
    std::vector<std::string_view> before;
    before.swap(out.words);
    for (const std::string_view piece : before) {
      const bool starts = first && piece.data() == before.front().data();
      TRY(step->apply(piece, starts, out));
    }
  }
  return {};
}

}  // namespace trireme::text
