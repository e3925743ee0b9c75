// Result<T> with the two macros that pass an error up.
#pragma once
#include "trireme/status.h"

#define TRIREME_CONCAT_(a, b) a##b
#define TRIREME_CONCAT(a, b) TRIREME_CONCAT_(a, b)

// TRY(status): returns the error of a Status to the caller.
#define TRY(expr)                                                            \
  do {                                                                       \
    auto try_status_ = (expr);                                               \
    if (!try_status_) return tl::unexpected(std::move(try_status_).error()); \
  } while (false)

// ASSIGN(auto x, result): x = the value, or returns the error to the caller.
#define ASSIGN_(tmp, decl, ...)                            \
  auto tmp = (__VA_ARGS__);                                \
  if (!tmp) return tl::unexpected(std::move(tmp).error()); \
  decl = std::move(tmp).value()
#define ASSIGN(decl, ...) ASSIGN_(TRIREME_CONCAT(assign_, __LINE__), decl, __VA_ARGS__)
