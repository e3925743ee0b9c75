// CHECK: an invariant of our own that must hold. A failure is a bug: it prints where and why, and aborts.
#pragma once
#include <fmt/format.h>

#include <string_view>

namespace trireme {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, std::string_view why);

}  // namespace trireme

#define CHECK(condition, ...)                                                                 \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::trireme::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (false)
