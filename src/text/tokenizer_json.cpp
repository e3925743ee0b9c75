#include "text/tokenizer_json.h"

#include "text/bpe_text_model.h"
#include "text/byte_level.h"
#include "text/json_fields.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

constexpr std::size_t kMaxTokenBytes = 64 << 10;
constexpr std::size_t kMaxMerges = 4 << 20;

Result<TokenId> token_id(const Json& json, std::string_view what) {
  if (!json.is_number_integer()) return invalid("{}: the id must be a whole number", what);
  const bool fits =
      json.is_number_unsigned() ? json.get<u64>() <= static_cast<u64>(kMaxTokenId) : json.get<i64>() >= 0;
  if (!fits) return invalid("{}: the id {} is not in 0 to {}", what, json.dump(), kMaxTokenId);
  return json.get<TokenId>();
}

// How decoders turn the spelling of a token into bytes.
struct Decoder {
  bool byte_level = false, byte_fallback = false, fused = false;
  std::vector<Replacement> replace;
  int strip = 0;

  Status add(const Json& json, int depth) {
    if (json.is_null()) return {};
    ASSIGN(const std::string type, string_field(json, "type", "decoder"));
    if (type == "Sequence") {
      if (depth > 4) return invalid("decoder: Sequences nested too deeply");
      ASSIGN(const Json* list, array_field(json, "decoders", "decoder Sequence"));
      if (list->size() > 64) return invalid("decoder: more than 64 steps");
      for (const Json& step : *list) TRY(add(step, depth + 1));
      return {};
    }
    if (type == "ByteLevel") {
      byte_level = true;
      return {};
    }
    if (type == "ByteFallback") {
      byte_fallback = true;
      return {};
    }
    if (type == "Fuse") {
      fused = true;
      return {};
    }
    if (type == "Replace") {
      ASSIGN(Replacement r, Replacement::parse(json, "decoder Replace"));
      replace.push_back(std::move(r));
      return {};
    }
    if (type == "Metaspace") {
      std::string replacement = "\xE2\x96\x81", scheme = "always";
      if (json.contains("replacement")) {
        ASSIGN(replacement, string_field(json, "replacement", "decoder Metaspace"));
      }
      if (json.contains("prepend_scheme")) {
        ASSIGN(scheme, string_field(json, "prepend_scheme", "decoder Metaspace"));
      }
      ASSIGN(Regex pattern, Regex::literal(replacement));
      replace.push_back({std::move(pattern), " "});
      if (scheme != "never") strip = 1;
      return {};
    }
    if (type == "Strip") {
      const Json start = json.value("start", Json()), stop = json.value("stop", Json());
      const bool usual =
          fused && json.value("content", Json()) == " " && start.is_number_unsigned() && stop == 0;
      if (!usual || start.get<u64>() > 16) {
        return fail(ErrorCode::kUnsupported, "tokenizer.json: this Strip decoder is not supported: {}",
                    json.dump());
      }
      strip = start.get<int>();
      return {};
    }
    return fail(ErrorCode::kUnsupported, "tokenizer.json: decoder type '{}' is not supported", type);
  }

  Result<std::string> bytes_of(const std::string& token) const {
    if (byte_level) {
      if (auto bytes = byte_level_bytes(token)) return *bytes;
      return token;
    }
    if (const int byte = byte_fallback ? byte_fallback_value(token) : -1; byte >= 0) {
      return std::string(1, static_cast<char>(byte));
    }
    std::string text = token;
    for (const Replacement& r : replace) {
      ASSIGN(text, r.apply(text));
    }
    return text;
  }
};

struct Builder {
  const Json& root;
  Vocabulary& vocabulary;
  AddedTokens& added;
  Decoder decoder;

  Status read_vocabulary(const Json& model) {
    const auto vocab = model.find("vocab");
    if (vocab == model.end() || !vocab->is_object() || vocab->empty()) {
      return invalid("model.vocab must be an object from token to id");
    }
    for (const auto& [text, id] : vocab->items()) {
      ASSIGN(const TokenId number, token_id(id, fmt::format("model.vocab '{}'", text)));
      if (text.empty() || text.size() > kMaxTokenBytes) {
        return invalid("model.vocab: a token of {} bytes; 1 to {} are allowed", text.size(), kMaxTokenBytes);
      }
      if (vocabulary.at(number).exists) {
        return invalid("the id {} belongs to two tokens, '{}' and '{}'", number, vocabulary.at(number).text,
                       text);
      }
      ASSIGN(std::string bytes, decoder.bytes_of(text));
      TRY(vocabulary.add(number, {.text = text, .bytes = std::move(bytes)}));
    }
    return {};
  }

  Status read_added_tokens() {
    const auto list = root.find("added_tokens");
    if (list == root.end() || list->is_null()) return {};
    if (!list->is_array()) return invalid("added_tokens must be a list");
    constexpr std::string_view kWhat = "added_tokens";
    for (const Json& entry : *list) {
      AddedToken token;
      ASSIGN(token.content, string_field(entry, "content", kWhat));
      if (token.content.empty() || token.content.size() > kMaxTokenBytes) {
        return invalid("added_tokens: a token of {} bytes; 1 to {} are allowed", token.content.size(),
                       kMaxTokenBytes);
      }
      if (!entry.contains("id")) return invalid("added_tokens '{}': the id is missing", token.content);
      ASSIGN(token.id, token_id(entry["id"], fmt::format("added_tokens '{}'", token.content)));
      ASSIGN(const bool special, bool_field(entry, "special", false, kWhat));
      ASSIGN(token.single_word, bool_field(entry, "single_word", false, kWhat));
      ASSIGN(token.lstrip, bool_field(entry, "lstrip", false, kWhat));
      ASSIGN(token.rstrip, bool_field(entry, "rstrip", false, kWhat));
      ASSIGN(token.normalized, bool_field(entry, "normalized", !special, kWhat));
      TRY(vocabulary.add(token.id,
                         {.text = token.content, .bytes = token.content, .special = special, .added = true}));
      added.add(std::move(token));
    }
    return {};
  }

  // An added token must not come out of the merging of plain text.
  bool guarded(TokenId id) const {
    const Token& token = vocabulary.at(id);
    return token.added && count_code_points(token.text) > 1 && !is_blank(token.text);
  }

  Result<BpeSpec::Merge> merge_of(const Json& entry, std::size_t rank) const {
    std::string left, right;
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return invalid("merge {} is not two tokens with one space between: '{}'", rank, text);
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      left = entry[0].get<std::string>();
      right = entry[1].get<std::string>();
    } else {
      return invalid("merge {} is neither \"a b\" nor [\"a\", \"b\"]", rank);
    }
    const BpeSpec::Merge merge{vocabulary.id_of(left), vocabulary.id_of(right),
                               vocabulary.id_of(left + right)};
    if (merge.left < 0)
      return invalid("merge {} names the token '{}', which is not in the vocabulary", rank, left);
    if (merge.right < 0)
      return invalid("merge {} names the token '{}', which is not in the vocabulary", rank, right);
    if (merge.result < 0) {
      return invalid("merge {} makes the token '{}', which is not in the vocabulary", rank, left + right);
    }
    return merge;
  }

  Result<BpeSpec> read_bpe(const Json& model, bool byte_level) {
    BpeSpec spec;
    spec.alphabet = byte_level ? BpeAlphabet::kBytes : BpeAlphabet::kCharacters;
    ASSIGN(const Json* merges, array_field(model, "merges", "model"));
    if (merges->size() > kMaxMerges)
      return invalid("model.merges: {} merges; {} are allowed", merges->size(), kMaxMerges);
    for (std::size_t rank = 0; rank < merges->size(); ++rank) {
      ASSIGN(const BpeSpec::Merge merge, merge_of((*merges)[rank], rank));
      if (!guarded(merge.result)) spec.merges.push_back(merge);
    }
    spec.token_bytes.resize(static_cast<std::size_t>(vocabulary.size()));
    spec.byte_tokens.fill(-1);
    ASSIGN(const bool byte_fallback, bool_field(model, "byte_fallback", false, "model"));
    for (TokenId id = 0; id < vocabulary.size(); ++id) {
      const Token& token = vocabulary.at(id);
      if (!token.exists || guarded(id)) continue;
      auto& bytes = spec.token_bytes[static_cast<std::size_t>(id)];
      if (byte_level) {
        bytes = byte_level_bytes(token.text).value_or(std::string());
        if (bytes.size() == 1) spec.byte_tokens[static_cast<u8>(bytes[0])] = id;
      } else {
        bytes = token.text;
        const int byte = byte_fallback ? byte_fallback_value(token.text) : -1;
        if (byte >= 0) spec.byte_tokens[static_cast<std::size_t>(byte)] = id;
      }
    }
    ASSIGN(spec.fuse_unknown, bool_field(model, "fuse_unk", false, "model"));
    ASSIGN(spec.whole_word_first, bool_field(model, "ignore_merges", false, "model"));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json value = model.value(key, Json());
      if (!value.is_null() && value != "")
        return fail(ErrorCode::kUnsupported, "model.{} is not supported", key);
    }
    const Json dropout = model.value("dropout", Json());
    if (!dropout.is_null() && dropout != 0)
      return fail(ErrorCode::kUnsupported, "model.dropout is not supported");
    const Json unknown = model.value("unk_token", Json());
    if (!unknown.is_null()) {
      ASSIGN(const std::string name, string_field(model, "unk_token", "model"));
      spec.unknown = vocabulary.id_of(name);
      if (spec.unknown < 0) return invalid("model.unk_token '{}' is not in the vocabulary", name);
    }
    return spec;
  }

  Status read_template(const Json& json, std::vector<TokenId>& before, std::vector<TokenId>& after) const {
    constexpr std::string_view kWhat = "post_processor TemplateProcessing";
    ASSIGN(const Json* single, array_field(json, "single", kWhat));
    bool seen_text = false;
    for (const Json& part : *single) {
      if (part.is_object() && part.contains("Sequence")) {
        seen_text = true;
        continue;
      }
      if (!part.is_object() || !part.contains("SpecialToken")) {
        return invalid("{}: a part is neither Sequence nor SpecialToken", kWhat);
      }
      ASSIGN(const std::string name, string_field(part["SpecialToken"], "id", kWhat));
      const Json tokens = json.value("special_tokens", Json::object());
      if (!tokens.is_object() || !tokens.contains(name)) {
        return invalid("{}: '{}' is not among its special_tokens", kWhat, name);
      }
      ASSIGN(const Json* ids, array_field(tokens[name], "ids", kWhat));
      for (const Json& id : *ids) {
        ASSIGN(const TokenId number, token_id(id, kWhat));
        if (!vocabulary.at(number).exists) return invalid("{}: there is no token {}", kWhat, number);
        (seen_text ? after : before).push_back(number);
      }
    }
    return {};
  }

  Status read_post_processor(const Json& json, int depth, std::vector<TokenId>& before,
                             std::vector<TokenId>& after) const {
    if (json.is_null()) return {};
    ASSIGN(const std::string type, string_field(json, "type", "post_processor"));
    if (type == "ByteLevel") return {};
    if (type == "TemplateProcessing") return read_template(json, before, after);
    if (type == "Sequence") {
      if (depth > 4) return invalid("post_processor: Sequences nested too deeply");
      ASSIGN(const Json* list, array_field(json, "processors", "post_processor Sequence"));
      if (list->size() > 64) return invalid("post_processor: more than 64 steps");
      for (const Json& step : *list) TRY(read_post_processor(step, depth + 1, before, after));
      return {};
    }
    return fail(ErrorCode::kUnsupported, "tokenizer.json: post_processor type '{}' is not supported", type);
  }
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> TokenizerJson::read(std::string_view text) {
  ASSIGN(const Json root, parse_json(text, "tokenizer.json"));
  const auto model = root.is_object() ? root.find("model") : root.end();
  if (!root.is_object() || model == root.end() || !model->is_object()) {
    return invalid("tokenizer.json: \"model\" must be an object");
  }
  const Json type = model->value("type", Json("BPE"));
  if (type != "BPE") {
    return fail(ErrorCode::kUnsupported, "tokenizer.json: model type {} is not supported, only BPE",
                type.dump());
  }
  ASSIGN(Normalizer normalizer, Normalizer::parse(root.value("normalizer", Json())));
  ASSIGN(PreTokenizer pre_tokenizer, PreTokenizer::parse(root.value("pre_tokenizer", Json())));
  std::unique_ptr<Tokenizer> made(new Tokenizer);
  Builder builder{root, made->vocabulary_, made->added_, {}};
  TRY(builder.decoder.add(root.value("decoder", Json()), 0));
  const bool byte_level = pre_tokenizer.byte_level();
  if (byte_level) builder.decoder.byte_level = true;
  made->strip_ = builder.decoder.strip;
  TRY(builder.read_vocabulary(*model));
  TRY(builder.read_added_tokens());
  ASSIGN(BpeSpec spec, builder.read_bpe(*model, byte_level));
  TRY(builder.read_post_processor(root.value("post_processor", Json()), 0, made->before_, made->after_));
  made->model_ =
      std::make_unique<BpeTextModel>(std::move(normalizer), std::move(pre_tokenizer), Bpe(std::move(spec)));
  return made;
}

}  // namespace trireme::text
