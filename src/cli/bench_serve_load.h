// The load generator: streams many requests at once on one thread and notes when each token came.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "cli/http_connection.h"

namespace trireme::cli {

// Times between requests of an open loop: gamma-distributed with mean 1/rate; burstiness is the shape: 1 is a
// Poisson process, below 1 comes in bursts, above 1 is more even.
class Arrivals {
 public:
  Arrivals(double rate, double burstiness, u64 seed) : rate_(rate), shape_(burstiness), rng_(seed) {}
  double next_gap();  // seconds

 private:
  double rate_, shape_;
  Rng rng_;
};

struct LoadOptions {
  Url url;
  std::vector<std::string> addresses;
  std::string path, api_key;
  HttpTimeouts timeouts;
  int concurrency = 0;      // most requests at once; 0: no limit, in an open loop only
  double request_rate = 0;  // requests a second; 0: closed loop, the next when one ends
  double burstiness = 1;
  u64 seed = 0;
};

// One request as it went. Times are in seconds, from when it was sent.
struct RequestRecord {
  bool ok = false;
  std::string error_kind, error;  // when not ok: "HTTP 429", "timeout", ...
  double due = 0, sent = 0;       // after the start of the load; the same in a closed loop
  double ttft = 0, e2e = 0;
  std::vector<float> gaps;  // between pieces of output
  i64 prompt_tokens = 0, output_tokens = 0, cached_tokens = 0;
  bool counted = false;  // the server gave the numbers; else output_tokens are the pieces seen
};

struct LoadResult {
  std::vector<RequestRecord> requests;
  double duration = 0;  // seconds
  int peak_concurrency = 0;
  double cpu_seconds = 0;  // of this process
  bool stopped = false;    // by `stop`: requests that had not ended are left out
};

// Sends every body once. Returns when all have ended; a timeout ends each. `stop`, when it becomes true, ends
// the load within 0.1 s.
LoadResult run_load(const LoadOptions& options, std::span<const std::string> bodies,
                    const std::function<void(i64 done, i64 total)>& progress,
                    const std::atomic<bool>* stop = nullptr);

}  // namespace trireme::cli
