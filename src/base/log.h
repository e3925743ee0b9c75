// The program's log: one line an event, to stderr. Text that came from outside goes through one_line(),
// so that it can never forge a second line or drive a terminal.
#pragma once
#include <spdlog/spdlog.h>

#include <string>
#include <string_view>

#include "base/result.h"

namespace trireme {

// level: trace, debug, info, warning, error, off.
Status configure_log(std::string_view level);

// Control bytes escaped as \xNN, cut after max_bytes.
std::string one_line(std::string_view text, std::size_t max_bytes = 256);

}  // namespace trireme
