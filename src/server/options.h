// What `serve` can be told about its HTTP side. Defaults are for a machine on its own.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "base/result.h"

namespace trireme::server {

using std::chrono::milliseconds;

struct ServerOptions {
  std::string host = "127.0.0.1";  // --host: an IP address to listen on; 0.0.0.0 and :: are every interface
  int port = 8000;                 // --port; 0 takes a free one
  int io_threads = 2;              // --http-threads: threads that hold connections

  // --api-key, may be repeated. When there is one, every route but /health asks for one of them.
  std::vector<std::string> api_keys;
  // --served-model-name, may be repeated: names that a request's `model` may give; the first is the one that
  // answers carry. Empty: the engine's.
  std::vector<std::string> served_model_names;

  std::size_t max_body_bytes = 32u << 20;     // --max-body-bytes; beyond it: 413
  std::size_t max_bodies_bytes = 512u << 20;  // --max-bodies-bytes: of all requests being read at once
  std::size_t max_header_bytes = 32u << 10;   // --max-header-bytes, request line included; beyond it: 431
  int max_connections = 4096;                 // --max-connections; beyond it: 503 and close
  int max_generations = 2048;                 // --max-streams: requests being answered; beyond it: 429
  int max_choices = 128;                      // --max-choices: prompts times n of one request
  milliseconds header_timeout{10000};         // --header-timeout: for a request's headers, from first byte
  milliseconds body_timeout{60000};           // --body-timeout: for its body
  milliseconds idle_timeout{75000};           // --keep-alive-timeout: between two requests
  milliseconds drain_timeout{30000};          // --drain-timeout: after SIGTERM, for what is running
  std::size_t slow_reader_bytes = 1u << 20;   // --slow-reader-bytes: a stream's unsent bytes ...
  milliseconds slow_reader_timeout{30000};    // --slow-reader-timeout: ... may stay above it for so long
  milliseconds sse_heartbeat{15000};          // a comment line in a stream that is silent for so long
  milliseconds ready_token_age{30000};        // /ready trusts a token this young ...
  milliseconds ready_canary_timeout{5000};    // ... else waits so long for one token made to find out

  std::string allow_origin;  // --allow-origin: for CORS, an origin or *; empty: no CORS
  bool allow_chat_template_kwargs =
      false;                   // --allow-chat-template-kwargs: requests may set template variables
  bool enable_metrics = true;  // --enable-metrics: /metrics
  bool log_requests = true;    // --log-requests: one line a request
};

// Every bound, with the flag's name in the message.
Result<ServerOptions> validated(ServerOptions options);

}  // namespace trireme::server
