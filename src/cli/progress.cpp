#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"

namespace trireme::cli {

std::function<void(i64, i64)> progress_bar(std::string label, const char* unit, i64 per_unit) {
  if (!isatty(STDERR_FILENO)) return {};
  return
      [label = std::move(label), unit, per_unit, last = Time{}, shown = false](i64 done, i64 total) mutable {
        const Time now = SteadyClock().now();
        const bool finished = total > 0 && done >= total;
        if (!finished && now - last < std::chrono::milliseconds(100)) return;
        if (finished && !shown && last == Time{}) return;  // too quick to be worth a bar
        last = now;
        shown = true;
        if (total <= 0) {
          fmt::print(stderr, "\r{} {} {}", label, done / per_unit, unit);
        } else {
          constexpr int kWidth = 30;
          const int filled = static_cast<int>(std::min<i64>(kWidth, done * kWidth / total));
          fmt::print(stderr, "\r{} [{:#<{}}{:.<{}}] {}/{} {}", label, "", filled, "", kWidth - filled,
                     done / per_unit, total / per_unit, unit);
        }
        if (finished) fmt::print(stderr, "\n");
        std::fflush(stderr);
      };
}

}  // namespace trireme::cli
