#include "cli/chat_model.h"

#include <charconv>

#include "base/log.h"

namespace trireme::cli {
namespace {

template <class T>
Status parse_setting(std::optional<T>& slot, std::string_view name, std::string_view text) {
  if (text == "default") {
    slot.reset();
    return {};
  }
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return invalid("{} {}: not a number; say default to take a setting back", name, one_line(text));
  }
  slot = value;
  return {};
}

template <class T>
void append_setting(std::string& out, const char* name, const std::optional<T>& value) {
  out += value ? fmt::format("{} {}\n", name, *value) : fmt::format("{} default\n", name);
}

}  // namespace

Status set_sampling(ChatSampling& s, std::string_view name, std::string_view value) {
  if (name == "temperature") return parse_setting(s.temperature, name, value);
  if (name == "top_p") return parse_setting(s.top_p, name, value);
  if (name == "top_k") return parse_setting(s.top_k, name, value);
  if (name == "max_tokens") return parse_setting(s.max_tokens, name, value);
  if (name == "seed") return parse_setting(s.seed, name, value);
  return invalid("{}: set temperature, top_p, top_k, max_tokens or seed", one_line(name));
}

std::string sampling_text(const ChatSampling& s) {
  std::string out;
  append_setting(out, "temperature", s.temperature);
  append_setting(out, "top_p", s.top_p);
  append_setting(out, "top_k", s.top_k);
  append_setting(out, "max_tokens", s.max_tokens);
  append_setting(out, "seed", s.seed);
  return out;
}

}  // namespace trireme::cli
