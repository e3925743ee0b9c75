// How the outside world fails: Result<T>, with a code a program can act on and a message that tells a
// person what to do. A broken invariant of our own is CHECK (base/check.h), never an Error.
#pragma once
#include <fmt/format.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace trireme {

enum class ErrorCode {
  kInvalidArgument,    // the caller's input is wrong; sending it again will fail again
  kNotFound,           // a file, model or request that is not there
  kUnsupported,        // understood, and not something this build or model can do
  kResourceExhausted,  // a queue or pool is full; may work later
  kDeadlineExceeded,
  kCancelled,
  kUnavailable,  // shutting down, or the engine is gone
  kDataLoss,     // bytes that do not match their own description or checksum
  kInternal,
};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

template <class... Args>
tl::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}
template <class... Args>
tl::unexpected<Error> invalid(fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorCode::kInvalidArgument, format, std::forward<Args>(args)...);
}

const char* to_string(ErrorCode code);

}  // namespace trireme
