// A progress bar on stderr, when that is a terminal; silent otherwise.
#pragma once
#include <functional>
#include <string>

#include "base/types.h"

namespace trireme::cli {

// Call it with (done, total); it draws at most ten times a second and ends its line at done == total.
// A total of 0 means unknown: only the amount is shown. Not thread-safe.
std::function<void(i64 done, i64 total)> progress_bar(std::string label, const char* unit = "MiB",
                                                      i64 per_unit = 1 << 20);

}  // namespace trireme::cli
