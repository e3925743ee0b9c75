// The messages and tools of a chat request: checked for form, so that a template meets no surprises.
#include <algorithm>
#include <array>

#include "server/openai/fields.h"
#include "server/openai/request.h"

namespace trireme::server {
namespace {

constexpr std::size_t kMaxMessages = 16384;
constexpr std::size_t kMaxTools = 128;

ApiResult<void> check_parts(const OrderedJson& parts, const std::string& path) {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto where = fmt::format("{}[{}]", path, i);
    if (!parts[i].is_object())
      return bad_param(where, where + ": a content part is an object", "invalid_type");
    const Fields part(parts[i], where + ".");
    const auto* type = part.find("type");
    if (!type || !type->is_string()) return part.wrong_type("type", "a string");
    if (*type != "text") {
      return bad_param(part.full("type"),
                       fmt::format("{}: content of type \"{}\" is not supported by this model; send text",
                                   where, type->get<std::string>().substr(0, 64)),
                       "unsupported_content_type");
    }
    const auto* text = part.find("text");
    if (!text || !text->is_string()) return part.wrong_type("text", "a string");
  }
  return {};
}

ApiResult<void> check_tool_calls(const OrderedJson& calls, const std::string& path) {
  if (!calls.is_array()) return bad_param(path, path + ": an array is expected", "invalid_type");
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const auto where = fmt::format("{}[{}]", path, i);
    const auto function = calls[i].is_object() ? calls[i].find("function") : calls[i].end();
    if (!calls[i].is_object() || function == calls[i].end() || !function->is_object() ||
        !function->contains("name") || !(*function)["name"].is_string()) {
      return bad_param(where, where + ": a tool call has a function with a name", "invalid_type");
    }
  }
  return {};
}

ApiResult<void> check_message(OrderedJson& message, const std::string& path) {
  if (!message.is_object()) return bad_param(path, path + ": a message is an object", "invalid_type");
  const Fields fields(message, path + ".");
  const auto* role = fields.find("role");
  if (!role || !role->is_string()) return fields.wrong_type("role", "a string");
  const auto name = role->get<std::string>();
  constexpr std::array kRoles{"system", "developer", "user", "assistant", "tool"};
  if (std::find(kRoles.begin(), kRoles.end(), name) == kRoles.end()) {
    return bad_param(fields.full("role"),
                     fmt::format("{}: \"{}\" is none of system, developer, user, assistant, tool",
                                 fields.full("role"), name.substr(0, 64)));
  }
  if (const auto* calls = fields.find("tool_calls")) TRY(check_tool_calls(*calls, fields.full("tool_calls")));
  const auto* content = fields.find("content");
  if (!content) {
    if (name != "assistant") return fields.wrong_type("content", "a string or an array of text parts");
  } else if (content->is_array()) {
    TRY(check_parts(*content, fields.full("content")));
  } else if (!content->is_string()) {
    return fields.wrong_type("content", "a string or an array of text parts");
  }
  // Templates know only the older name of the role.
  if (name == "developer") message["role"] = "system";
  return {};
}

ApiResult<void> check_tools(const OrderedJson& tools) {
  if (!tools.is_array()) return bad_param("tools", "tools: an array is expected", "invalid_type");
  if (tools.size() > kMaxTools) {
    return bad_param("tools",
                     fmt::format("tools: {} tools; at most {} are allowed", tools.size(), kMaxTools));
  }
  for (std::size_t i = 0; i < tools.size(); ++i) {
    const auto where = fmt::format("tools[{}]", i);
    if (!tools[i].is_object()) return bad_param(where, where + ": a tool is an object", "invalid_type");
    const Fields tool(tools[i], where + ".");
    const auto* type = tool.find("type");
    if (!type || *type != "function")
      return bad_param(tool.full("type"), where + ": its type must be \"function\"");
    const auto* function = tool.find("function");
    if (!function || !function->is_object()) return tool.wrong_type("function", "an object");
    const Fields inner(*function, where + ".function.");
    const auto* name = inner.find("name");
    if (!name || !name->is_string()) return inner.wrong_type("name", "a string");
  }
  return {};
}

}  // namespace

ApiResult<ChatPrompt> parse_chat_prompt(OrderedJson& body, const RequestLimits& limits) {
  const Fields fields(body);
  ChatPrompt out;
  const auto* messages = fields.find("messages");
  if (!messages)
    return bad_param("messages", "messages is missing: give an array of messages",
                     "missing_required_parameter");
  if (!messages->is_array()) return fields.wrong_type("messages", "an array of messages");
  if (messages->empty()) return bad_param("messages", "messages is empty: give at least one message");
  if (messages->size() > kMaxMessages) {
    return bad_param("messages", fmt::format("messages: {} messages; at most {} are allowed",
                                             messages->size(), kMaxMessages));
  }
  out.messages = std::move(body["messages"]);
  for (std::size_t i = 0; i < out.messages.size(); ++i) {
    TRY(check_message(out.messages[i], fmt::format("messages[{}]", i)));
  }

  bool use_tools = true;
  if (const auto* choice = fields.find("tool_choice")) {
    if (*choice == "none") {
      use_tools = false;
    } else if (*choice != "auto") {
      return bad_param("tool_choice", "tool_choice: only \"none\" and \"auto\" are supported",
                       "unsupported_value");
    }
  }
  if (const auto* tools = fields.find("tools")) {
    TRY(check_tools(*tools));
    if (use_tools && !tools->empty()) out.tools = *tools;
  }
  if (const auto* kwargs = fields.find("chat_template_kwargs")) {
    if (!kwargs->is_object()) return fields.wrong_type("chat_template_kwargs", "an object");
    if (!kwargs->empty() && !limits.allow_template_kwargs) {
      return bad_param("chat_template_kwargs",
                       "chat_template_kwargs: this server does not take template variables from requests",
                       "unsupported_parameter");
    }
    for (const auto* name : {"messages", "tools", "chat_template", "tokenize", "add_generation_prompt"}) {
      if (kwargs->contains(name)) {
        return bad_param("chat_template_kwargs",
                         fmt::format("chat_template_kwargs: {} cannot be set there", name));
      }
    }
    if (!kwargs->empty()) out.template_kwargs = *kwargs;
  }
  ASSIGN(const auto generation_prompt, fields.boolean("add_generation_prompt"));
  ASSIGN(const auto continue_final, fields.boolean("continue_final_message"));
  ASSIGN(const auto special, fields.boolean("add_special_tokens"));
  out.add_generation_prompt = generation_prompt.value_or(true);
  out.continue_final_message = continue_final.value_or(false);
  out.add_special_tokens = special.value_or(false);
  if (out.continue_final_message) {
    return bad_param("continue_final_message",
                     "continue_final_message: not supported; end with a user message",
                     "unsupported_parameter");
  }
  return out;
}

}  // namespace trireme::server
