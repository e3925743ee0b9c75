// The embeddable engine: token ids in, events out. Text, templates and HTTP live above it.
//
// Threads: every method is thread-safe. An EventSink is called from the engine's own thread, one event at
// a time for one request, and must not block: hand the event over and return.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trireme/sampling.h"
#include "trireme/status.h"

namespace trireme {

struct Request {
  std::vector<std::int32_t> prompt;  // at least one token, each below vocab_size
  SamplingParams sampling;
  int priority = 0;        // higher is sooner
  std::string tenant;      // whose share this counts against (an API key's name); empty is one of its own
  std::string cache_salt;  // prefixes are shared only under the same salt
  std::optional<std::chrono::nanoseconds> timeout;  // from submission; then it ends as kDeadline
};

enum class FinishReason {
  kNone,       // not finished
  kStop,       // end of sequence or a stop token
  kLength,     // max_tokens, or the model's context is full
  kCancelled,  // by the caller
  kDeadline,   // its timeout passed
  kError,      // see Event::error
};
const char* to_string(FinishReason reason);

struct TokenLogprob {
  std::int32_t token = 0;
  float logprob = 0;
};

struct OutputToken {
  std::int32_t id = 0;
  std::optional<TokenLogprob> chosen;      // when logprobs were asked for
  std::vector<TokenLogprob> top_logprobs;  // best first
};

// A request gets any number of events; exactly one, the last, has finish != kNone.
struct Event {
  std::vector<OutputToken> tokens;  // new since the last event; a stop token is included, as the last
  FinishReason finish = FinishReason::kNone;
  std::optional<std::int32_t> stop_token;  // the token that ended it, for kStop
  std::optional<Error> error;
  int prompt_tokens = 0;
  int cached_tokens = 0;     // of the prompt, taken from the prefix cache
  double queue_seconds = 0;  // from submission to its first step (or its end, when it had none)
};

using EventSink = std::function<void(Event&&)>;
using RequestId = std::uint64_t;

struct ModelInfo {
  std::string name;          // what `serve` calls it: --served-model-name, else the folder's name
  std::string architecture;  // as in config.json
  std::string dtype;         // of the weights as stored, for example "fp8"
  std::string device;        // for example "cpu"
  int vocab_size = 0;
  int max_model_len = 0;
  std::vector<std::int32_t> eos_ids;
  std::vector<std::pair<std::string, double>> startup_seconds;  // phases of getting ready, in their order
};

// A moment's view, cheap to take. Counters grow for the engine's lifetime.
struct EngineStats {
  int running = 0, waiting = 0;
  std::int64_t kv_blocks_total = 0, kv_blocks_used = 0;  // used: held by live requests
  std::int64_t kv_blocks_cached = 0;                     // held by the prefix cache alone, given up on demand
  int kv_block_tokens = 64;
  std::int64_t prompt_tokens = 0, generation_tokens = 0, cached_prompt_tokens = 0;
  std::int64_t prefix_queries = 0, prefix_hits = 0;  // in tokens
  std::int64_t preemptions = 0, steps = 0;
  std::int64_t requests_submitted = 0, requests_rejected = 0, requests_finished[6] = {};  // by FinishReason
  double last_token_age_s = -1;  // since a token was last produced; -1: never
  int live_sequences = 0;        // state still held anywhere for requests, finished ones included
  std::string device_error;  // not empty: the device is lost, every request fails until the process restarts
};

class Engine {
 public:
  virtual ~Engine() = default;  // cancels what is running and waits for it

  // Queues a request. The sink gets every later event; an error here means that there will be none.
  // kInvalidArgument: the request is wrong. kResourceExhausted: the queue is full, see retry_after().
  virtual Result<RequestId> submit(Request request, EventSink sink) = 0;
  // Asks a request to end; its last event (kCancelled, unless it ended before) follows. Unknown ids are fine.
  virtual void cancel(RequestId id) = 0;

  virtual const ModelInfo& info() const = 0;
  virtual EngineStats stats() const = 0;
  // How long a caller who found the queue full should wait.
  virtual std::chrono::seconds retry_after() const = 0;
  // Drops every prefix that no live request uses.
  virtual void clear_prefix_cache() = 0;
};

}  // namespace trireme
