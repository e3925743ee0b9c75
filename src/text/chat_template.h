// Chat templates as checkpoints ship them (Jinja, with the settings and helpers of transformers), run by our
// own bounded interpreter: a template that would run, nest, grow or write without end is an error. Text that
// comes from messages, tools or arguments is marked through every operation, so that it never turns into
// special tokens.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace trireme::text {

struct ChatInput {
  OrderedJson messages = OrderedJson::array();
  OrderedJson tools;      // null: none
  OrderedJson documents;  // null: none
  bool add_generation_prompt = true;
  OrderedJson
      kwargs;  // null, or an object: chat_template_kwargs; may not replace the names above or the tokens
  std::string bos_token, eos_token;
  std::optional<i64> now;  // for strftime_now, seconds since 1970; the clock otherwise
};

class ChatTemplate {
 public:
  // kInvalidArgument with the line for a template that does not parse. Thread-safe after parse.
  static Result<ChatTemplate> parse(std::string_view source);

  // kInvalidArgument when the template fails, refuses (raise_exception) or exceeds its budget.
  Result<std::string> render(const ChatInput& input) const;
  // The same text in parts: what the template wrote is trusted, what came from outside is not.
  Result<std::vector<TextSegment>> render_segments(const ChatInput& input) const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
  std::shared_ptr<const Parsed> parsed_;
};

// Renders and encodes. Special tokens come only from the template's own text; bos_token and eos_token of
// `input` are taken from the tokenizer where they are empty.
Result<std::vector<TokenId>> encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                         ChatInput input);

// The template of a checkpoint: `override_path` (a file) if not empty; else chat_template.jinja, else
// chat_template of tokenizer_config.json, a string or a list of {name, template} of which `name` is taken.
// kNotFound: it has none.
Result<ChatTemplate> load_chat_template(const std::string& model_dir, const std::string& override_path = {},
                                        std::string_view name = "default");

}  // namespace trireme::text
