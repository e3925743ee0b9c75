// Whether the engine really makes tokens: trusts one made lately, else has one made.
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "server/options.h"
#include "server/text_frontend.h"
#include "trireme/engine.h"

namespace trireme::server {

// Thread-safe. Any number of callers share one token in the making.
class Canary {
 public:
  Canary(Engine& engine, const TextFrontend& text, milliseconds token_age, milliseconds timeout);

  struct Verdict {
    enum class State { kPending, kReady, kNotReady } state = State::kPending;
    std::string why;
  };
  // Never blocks. While it says kPending, ask again soon; it turns kNotReady when the timeout is over.
  Verdict look();

 private:
  struct Probe {
    std::mutex mutex;
    Verdict verdict;
  };
  Verdict begin(Time now);

  Engine& engine_;
  milliseconds token_age_, timeout_;
  std::vector<TokenId> prompt_;
  std::mutex mutex_;
  std::shared_ptr<Probe> probe_;  // in the making
  RequestId probe_id_ = 0;
  Time probe_began_{};
  Time verdict_until_{};  // how long a failure is believed before the next probe
  Verdict last_failure_;
};

}  // namespace trireme::server
