#include "models/config_rope.h"

#include <algorithm>
#include <vector>

namespace trireme::models {
namespace {

using Kind = RopeScaling::Kind;

// A key that is not listed for its kind would change the table in a way that is not known here.
struct RopeKind {
  std::string_view name;
  Kind kind;
  std::vector<std::string_view> keys;
};

const std::vector<RopeKind>& rope_kinds() {
  static const std::vector<RopeKind> kinds = {
      {"default", Kind::kNone, {}},
      {"linear", Kind::kLinear, {"factor"}},
      {"llama3",
       Kind::kLlama3,
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}},
      {"yarn",
       Kind::kYarn,
       {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "attention_factor", "truncate"}},
  };
  return kinds;
}

constexpr double kMaxTheta = 1e15, kMaxFactor = 1e6;
constexpr i64 kMaxPositions = i64{1} << 26;

void parse_llama3(Keys& rope, RopeScaling& s) {
  s.factor = rope.real("factor", 1, kMaxFactor);
  s.low_freq_factor = rope.real("low_freq_factor", 1e-3, kMaxFactor);
  s.high_freq_factor = rope.real("high_freq_factor", 1e-3, kMaxFactor);
  s.original_max_position_embeddings = rope.integer("original_max_position_embeddings", 1, kMaxPositions);
  if (rope.ok() && s.high_freq_factor <= s.low_freq_factor) {
    rope.at_odds("\"high_freq_factor\" must be above \"low_freq_factor\"");
  }
}

void parse_yarn(Keys& rope, RopeScaling& s, i64 max_positions) {
  s.original_max_position_embeddings =
      rope.integer("original_max_position_embeddings", 1, kMaxPositions, max_positions);
  const double stretch =
      static_cast<double>(max_positions) / static_cast<double>(s.original_max_position_embeddings);
  s.factor = rope.real("factor", 1, kMaxFactor, std::max(1.0, stretch));
  s.beta_fast = rope.real("beta_fast", 1e-3, kMaxFactor, 32);
  s.beta_slow = rope.real("beta_slow", 1e-3, kMaxFactor, 1);
  s.mscale = rope.real("mscale", 0, 100, 0);
  s.mscale_all_dim = rope.real("mscale_all_dim", 0, 100, 0);
  s.truncate = rope.flag("truncate", true);
  if (rope.find("attention_factor")) s.attention_factor = rope.real("attention_factor", 1e-3, 100);
  if (rope.ok() && s.beta_fast < s.beta_slow) rope.at_odds("\"beta_fast\" is below \"beta_slow\"");
}

void refuse_unknown_keys(Keys& rope, const RopeKind& kind) {
  for (const auto& [key, value] : rope.json().items()) {
    if (value.is_null() || key == "type" || key == "rope_type" || key == "rope_theta") continue;
    if (std::find(kind.keys.begin(), kind.keys.end(), key) != kind.keys.end()) continue;
    if (key == "partial_rotary_factor" && value == 1.0) continue;
    rope.set(ErrorCode::kUnsupported, fmt::format("{}: the key \"{}\" is not supported for rope of type {}",
                                                  rope.what(), one_line(key, 64), kind.name));
  }
}

void parse_scaling(Keys& rope, ModelConfig& c) {
  const auto type = rope.text("rope_type", rope.text("type", "default"));
  if (rope.find("rope_type") && rope.text("type", type) != type) {
    rope.at_odds("\"rope_type\" and \"type\" differ");
    return;
  }
  const auto& kinds = rope_kinds();
  const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.name == type; });
  if (kind == kinds.end()) {
    rope.unsupported(rope.find("rope_type") ? "rope_type" : "type", "default, linear, llama3 and yarn are");
    return;
  }
  refuse_unknown_keys(rope, *kind);
  auto& s = c.rope_scaling;
  s.kind = kind->kind;
  if (s.kind == Kind::kLinear) s.factor = rope.real("factor", 1, kMaxFactor);
  if (s.kind == Kind::kLlama3) parse_llama3(rope, s);
  if (s.kind == Kind::kYarn) parse_yarn(rope, s, c.max_position_embeddings);
}

}  // namespace

void parse_rope(Keys& keys, ModelConfig& c) {
  // Above 1, because YaRN divides by its logarithm; below 2 nobody has a model. Configurations older than the
  // key leave it out.
  c.rope_theta = keys.real("rope_theta", 2, kMaxTheta, c.architecture == Architecture::kMixtral ? 1e6 : 1e4);
  const bool new_spelling = keys.find("rope_parameters") != nullptr;
  if (new_spelling && keys.find("rope_scaling")) {
    keys.at_odds("\"rope_scaling\" and \"rope_parameters\" are both there; keep one");
    return;
  }
  const char* key = new_spelling ? "rope_parameters" : "rope_scaling";
  const Json* json = keys.find(key);
  if (!json) return;
  if (!json->is_object()) {
    keys.wrong(key, "an object or null");
    return;
  }
  Keys rope(*json, fmt::format("{}: \"{}\"", keys.what(), key));
  if (new_spelling) c.rope_theta = rope.real("rope_theta", 2, kMaxTheta, c.rope_theta);
  parse_scaling(rope, c);
  if (const auto status = rope.status(); !status) keys.set(status.error().code, status.error().message);
}

}  // namespace trireme::models
