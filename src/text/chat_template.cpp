#include "text/chat_template.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "text/jinja/interpreter.h"
#include "text/json_fields.h"
#include "text/unicode.h"

namespace trireme::text {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxSource = 1u << 20;
constexpr std::array<std::string_view, 6> kOwnNames = {
    "messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"};

Result<jinja::Str> run(const jinja::Body& body, const ChatInput& input) {
  using jinja::Value;
  try {
    jinja::Interpreter interpreter({}, input.now);
    interpreter.define("messages", jinja::messages_from_json(input.messages));
    interpreter.define("tools", jinja::from_json(input.tools));
    interpreter.define("documents", jinja::from_json(input.documents));
    interpreter.define("add_generation_prompt", Value::boolean(input.add_generation_prompt));
    interpreter.define("bos_token", Value::text(input.bos_token));
    interpreter.define("eos_token", Value::text(input.eos_token));
    if (!input.kwargs.is_null()) {
      if (!input.kwargs.is_object()) return invalid("chat_template_kwargs must be an object");
      for (const auto& [key, value] : input.kwargs.items()) {
        if (std::find(kOwnNames.begin(), kOwnNames.end(), key) != kOwnNames.end()) {
          return invalid("chat_template_kwargs must not set '{}'", key);
        }
        interpreter.define(key, jinja::from_json(value));
      }
    }
    return interpreter.render(body);
  } catch (const jinja::TemplateError& e) {
    return invalid("chat template: {}", e.what());
  }
}

}  // namespace

struct ChatTemplate::Parsed {
  jinja::Body body;
};

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  if (source.size() > kMaxSource)
    return invalid("a chat template of {} bytes; at most {} are allowed", source.size(), kMaxSource);
  if (!valid_utf8(source)) return invalid("the chat template is not valid UTF-8");
  try {
    return ChatTemplate(std::make_shared<const Parsed>(Parsed{jinja::parse_template(source)}));
  } catch (const jinja::TemplateError& e) {
    return invalid("chat template: {}", e.what());
  }
}

Result<std::string> ChatTemplate::render(const ChatInput& input) const {
  ASSIGN(const jinja::Str text, run(parsed_->body, input));
  return text.text();
}

Result<std::vector<TextSegment>> ChatTemplate::render_segments(const ChatInput& input) const {
  ASSIGN(const jinja::Str text, run(parsed_->body, input));
  std::vector<TextSegment> segments;
  text.for_each_part([&](std::string_view part, bool trusted) {
    segments.push_back({std::string(part), trusted});
  });
  return segments;
}

Result<std::vector<TokenId>> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                         ChatInput input) {
  if (input.bos_token.empty()) input.bos_token = tokenizer.bos_text();
  if (input.eos_token.empty()) input.eos_token = tokenizer.eos_text();
  ASSIGN(const auto segments, chat.render_segments(input));
  return tokenizer.encode_segments(segments, false);
}

Result<ChatTemplate> load_chat_template(const std::string& model_dir, const std::string& override_path,
                                        std::string_view name) {
  if (!override_path.empty()) {
    ASSIGN(const std::string source, read_text_file(override_path, kMaxSource));
    return ChatTemplate::parse(source);
  }
  const fs::path dir(model_dir);
  std::error_code ignored;
  if (fs::is_regular_file(dir / "chat_template.jinja", ignored)) {
    ASSIGN(const std::string source, read_text_file((dir / "chat_template.jinja").string(), kMaxSource));
    return ChatTemplate::parse(source);
  }
  if (fs::is_regular_file(dir / "tokenizer_config.json", ignored)) {
    ASSIGN(const Json config, read_json_file((dir / "tokenizer_config.json").string()));
    const Json found = config.is_object() ? config.value("chat_template", Json()) : Json();
    if (found.is_string()) return ChatTemplate::parse(found.get_ref<const std::string&>());
    if (found.is_array()) {
      for (const Json& entry : found) {
        ASSIGN(const std::string entry_name, string_field(entry, "name", "chat_template"));
        if (entry_name != name) continue;
        ASSIGN(const std::string source, string_field(entry, "template", "chat_template"));
        return ChatTemplate::parse(source);
      }
      return fail(ErrorCode::kNotFound, "{} has no chat template called '{}'", model_dir, name);
    }
  }
  return fail(ErrorCode::kNotFound, "{} has no chat template; give one with --chat-template FILE", model_dir);
}

}  // namespace trireme::text
