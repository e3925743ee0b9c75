#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace trireme {

Status configure_log(std::string_view level) {
  static const auto logger = [] {
    auto made = spdlog::stderr_color_mt("trireme");
    made->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
    spdlog::set_default_logger(made);
    return made;
  }();
  const std::string name(level == "warn" ? "warning" : level);
  const auto parsed = spdlog::level::from_str(name);
  if (parsed == spdlog::level::off && name != "off") {
    return invalid("unknown log level \"{}\": use trace, debug, info, warning, error or off", name);
  }
  spdlog::set_level(parsed);
  return {};
}

std::string one_line(std::string_view text, std::size_t max_bytes) {
  std::string out;
  for (const char c : text.substr(0, max_bytes)) {
    const auto b = static_cast<unsigned char>(c);
    if (b < 0x20 || b == 0x7f)
      out += fmt::format("\\x{:02x}", b);
    else
      out += c;
  }
  if (text.size() > max_bytes) out += "...";
  return out;
}

}  // namespace trireme
