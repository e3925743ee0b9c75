#include "text/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>

#include "text/json_fields.h"

namespace trireme::text {
namespace {

const UNormalizer2* form_of(std::string_view type) {
  UErrorCode error = U_ZERO_ERROR;
  if (type == "NFC") return unorm2_getNFCInstance(&error);
  if (type == "NFD") return unorm2_getNFDInstance(&error);
  if (type == "NFKC") return unorm2_getNFKCInstance(&error);
  if (type == "NFKD") return unorm2_getNFKDInstance(&error);
  return nullptr;
}

std::string type_of(const Json& json) {
  const Json type = json.is_object() ? json.value("type", Json()) : Json();
  return type.is_string() ? type.get<std::string>() : type.dump();
}

Result<std::string> to_form(const UNormalizer2* form, std::string_view text) {
  const auto* normalizer = reinterpret_cast<const icu::Normalizer2*>(form);
  std::string out;
  icu::StringByteSink<std::string> sink(&out,
                                        static_cast<int32_t>(std::min<std::size_t>(text.size(), 1u << 30)));
  UErrorCode error = U_ZERO_ERROR;
  normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                            nullptr, error);
  if (U_FAILURE(error)) return invalid("Unicode normalization failed: {}", u_errorName(error));
  return out;
}

}  // namespace

Result<Regex> parse_pattern(const Json& json, std::string_view what) {
  if (json.is_object() && json.size() == 1) {
    if (json.contains("String") && json["String"].is_string()) {
      return Regex::literal(json["String"].get_ref<const std::string&>());
    }
    if (json.contains("Regex") && json["Regex"].is_string()) {
      return Regex::compile(json["Regex"].get_ref<const std::string&>());
    }
  }
  return invalid(R"({}: "pattern" must be {{"String": s}} or {{"Regex": r}})", what);
}

Result<Replacement> Replacement::parse(const Json& json, std::string_view what) {
  if (!json.contains("pattern")) return invalid("{}: \"pattern\" is missing", what);
  ASSIGN(Regex pattern, parse_pattern(json["pattern"], what));
  ASSIGN(std::string content, string_field(json, "content", what));
  return Replacement{std::move(pattern), std::move(content)};
}

Result<std::string> Replacement::apply(std::string_view text) const {
  std::string out;
  std::size_t done = 0;
  TRY(pattern.for_each(text, [&](std::size_t begin, std::size_t end) {
    out.append(text.substr(done, begin - done));
    out.append(with);
    done = end;
  }));
  out.append(text.substr(done));
  return out;
}

Result<Normalizer> Normalizer::parse(const Json& json) {
  Normalizer normalizer;
  TRY(normalizer.add(json, 0));
  return normalizer;
}

Status Normalizer::add(const Json& json, int depth) {
  if (json.is_null()) return {};
  const std::string type = type_of(json);
  if (type == "Sequence") {
    if (depth > 4) return invalid("normalizer: Sequences nested too deeply");
    ASSIGN(const Json* list, array_field(json, "normalizers", "normalizer Sequence"));
    if (list->size() > 64) return invalid("normalizer: more than 64 steps");
    for (const Json& step : *list) TRY(add(step, depth + 1));
    return {};
  }
  Step step;
  if (type == "Prepend") {
    ASSIGN(step.prepend, string_field(json, "prepend", "normalizer Prepend"));
    if (step.prepend.empty()) return {};
  } else if (type == "Replace") {
    ASSIGN(Replacement replacement, Replacement::parse(json, "normalizer Replace"));
    step.replace.push_back(std::move(replacement));
  } else {
    step.form = form_of(type);
    if (step.form == nullptr) {
      return fail(ErrorCode::kUnsupported, "tokenizer.json: normalizer type '{}' is not supported", type);
    }
  }
  steps_.push_back(std::move(step));
  return {};
}

Result<std::string> Normalizer::apply(std::string_view text) const {
  std::string now(text);
  for (const Step& step : steps_) {
    if (step.form != nullptr) {
      ASSIGN(now, to_form(step.form, now));
    } else if (!step.replace.empty()) {
      ASSIGN(now, step.replace[0].apply(now));
    } else if (!now.empty()) {
      now.insert(0, step.prepend);
    }
  }
  return now;
}

}  // namespace trireme::text
