// Time as a value, so that everything that waits can be tested without waiting.
#pragma once
#include <chrono>

namespace trireme {

using Duration = std::chrono::nanoseconds;
// A point on the monotonic clock; its zero means nothing.
using Time = std::chrono::time_point<std::chrono::steady_clock, Duration>;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time now() const = 0;  // thread-safe
};

class SteadyClock final : public Clock {
 public:
  Time now() const override { return std::chrono::steady_clock::now(); }
};

// Moves only when told to. Not thread-safe.
class VirtualClock final : public Clock {
 public:
  Time now() const override { return now_; }
  void advance(Duration d) { now_ += d; }

 private:
  Time now_{};
};

inline double seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline Duration from_seconds(double s) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(s));
}

}  // namespace trireme
