#include "text/tokenizer.h"

#include <algorithm>
#include <filesystem>

#include "text/json_fields.h"
#include "text/sentencepiece.h"
#include "text/tokenizer_json.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

namespace fs = std::filesystem;

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

// "<s>", {"content": "<s>", ...} or null.
Result<std::string> token_name(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::string();
  if (it->is_object()) return string_field(*it, "content", fmt::format("tokenizer_config.json: {}", key));
  return string_field(config, key, "tokenizer_config.json");
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::string& model_dir) {
  const fs::path dir(model_dir);
  std::string config;
  if (is_file(dir / "tokenizer_config.json")) {
    ASSIGN(config, read_text_file((dir / "tokenizer_config.json").string(), 16u << 20));
  }
  std::unique_ptr<Tokenizer> made;
  if (is_file(dir / "tokenizer.json")) {
    ASSIGN(const std::string text, read_text_file((dir / "tokenizer.json").string()));
    ASSIGN(made, from_json(text, config));
  } else if (is_file(dir / "tokenizer.model")) {
    ASSIGN(const std::string bytes, read_text_file((dir / "tokenizer.model").string()));
    ASSIGN(made, from_sentencepiece(bytes, config));
  } else {
    return fail(ErrorCode::kNotFound,
                "{} has neither tokenizer.json nor tokenizer.model; is it a model folder?", model_dir);
  }
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (is_file(dir / name)) TRY(made->read_stop_ids((dir / name).string()));
  }
  return made;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_json(std::string_view tokenizer_json,
                                                        std::string_view config) {
  ASSIGN(std::unique_ptr<Tokenizer> made, TokenizerJson::read(tokenizer_json));
  TRY(made->read_config(config));
  return made;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::from_sentencepiece(std::string_view model,
                                                                 std::string_view config) {
  ASSIGN(std::unique_ptr<Tokenizer> made, TokenizerSentencePiece::read(model));
  TRY(made->read_config(config));
  return made;
}

Status Tokenizer::read_config(std::string_view text) {
  if (text.empty()) return {};
  ASSIGN(const Json config, parse_json(text, "tokenizer_config.json"));
  if (!config.is_object()) return invalid("tokenizer_config.json must be an object");
  ASSIGN(const std::string bos, token_name(config, "bos_token"));
  ASSIGN(const std::string eos, token_name(config, "eos_token"));
  for (const auto& name : {bos, eos}) {
    if (!name.empty() && id_of(name) < 0) {
      return invalid("tokenizer_config.json names the token '{}', which the vocabulary does not have", name);
    }
  }
  if (!bos.empty()) bos_ = id_of(bos);
  if (!eos.empty()) eos_.assign(1, id_of(eos));
  const auto decide = [&config](const char* key, TokenId id, std::vector<TokenId>& ids) -> Status {
    if (!config.contains(key)) return {};
    ASSIGN(const bool wanted, bool_field(config, key, false, "tokenizer_config.json"));
    if (!wanted) std::erase(ids, id);
    if (wanted && id >= 0 && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    return {};
  };
  TRY(decide("add_bos_token", bos_, before_));
  return decide("add_eos_token", eos_.empty() ? -1 : eos_[0], after_);
}

// A token that either file calls the end of a text ends it.
Status Tokenizer::read_stop_ids(const std::string& path) {
  ASSIGN(const Json config, read_json_file(path));
  if (!config.is_object()) return invalid("{} must be an object", path);
  const auto read = [&](const Json& value, const char* key) -> Result<TokenId> {
    const bool whole = value.is_number_integer() && value >= 0 && value <= kMaxTokenId;
    if (!whole || !vocabulary_.at(value.get<TokenId>()).exists) {
      return invalid("{}: {} {} is not a token of the tokenizer", path, key, value.dump());
    }
    return value.get<TokenId>();
  };
  const Json bos = config.value("bos_token_id", Json());
  if (bos_ < 0 && !bos.is_null()) {
    ASSIGN(bos_, read(bos, "bos_token_id"));
  }
  Json eos = config.value("eos_token_id", Json());
  if (eos.is_null()) return {};
  if (!eos.is_array()) eos = Json::array({eos});
  for (const Json& id : eos) {
    ASSIGN(const TokenId token, read(id, "eos_token_id"));
    if (std::find(eos_.begin(), eos_.end(), token) == eos_.end()) eos_.push_back(token);
  }
  return {};
}

Result<std::vector<TokenId>> Tokenizer::encode_trusted(std::string_view text,
                                                       std::span<const ByteRange> trusted,
                                                       bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes) return invalid("the text is longer than {} bytes", kMaxTextBytes);
  if (!valid_utf8(text)) return invalid("the text is not valid UTF-8");
  std::vector<TokenId> ids;
  if (add_special_tokens) ids = before_;
  bool first = true;
  for (const auto& [range, token] : added_.cut(text, trusted)) {
    if (token >= 0) {
      ids.push_back(token);
    } else {
      TRY(model_->encode(text.substr(range.begin, range.end - range.begin), first, ids));
    }
    first = false;
  }
  if (add_special_tokens) ids.insert(ids.end(), after_.begin(), after_.end());
  return ids;
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  const ByteRange all{0, text.size()};
  return encode_trusted(text, {&all, options.parse_special ? 1u : 0u}, options.add_special_tokens);
}

Result<std::vector<TokenId>> Tokenizer::encode_segments(std::span<const TextSegment> segments,
                                                        bool add_special_tokens) const {
  std::string text;
  std::vector<ByteRange> trusted;
  for (const TextSegment& s : segments) {
    if (s.trusted && !s.text.empty()) {
      if (!trusted.empty() && trusted.back().end == text.size()) {
        trusted.back().end += s.text.size();
      } else {
        trusted.push_back({text.size(), text.size() + s.text.size()});
      }
    }
    text += s.text;
  }
  return encode_trusted(text, trusted, add_special_tokens);
}

void strip_spaces(std::string_view& part, int& left) {
  while (left > 0 && !part.empty()) {
    left = part[0] == ' ' ? left - 1 : 0;
    if (part[0] == ' ') part.remove_prefix(1);
  }
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  int strip = strip_;
  for (const TokenId id : ids) {
    if (skip_special && is_special(id)) continue;
    std::string_view part = token_bytes(id);
    strip_spaces(part, strip);
    bytes += part;
  }
  return lossy_utf8(bytes);
}

}  // namespace trireme::text
