#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace trireme {

void check_failed(const char* file, int line, const char* condition, std::string_view why) {
  fmt::print(stderr, "{}:{}: CHECK({}) failed{}{}\n", file, line, condition, why.empty() ? "" : ": ", why);
  std::fflush(stderr);
  std::abort();
}

}  // namespace trireme
