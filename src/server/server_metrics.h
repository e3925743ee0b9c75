// The server's metrics: what it counts itself, and what it shows of the engine's counts.
#pragma once
#include "obs/metrics.h"
#include "trireme/engine.h"

namespace trireme::server {

// Thread-safe.
class ServerMetrics {
 public:
  explicit ServerMetrics(const std::string& model_name);

  // A whole scrape, with the engine's figures of this moment.
  std::string exposition(const Engine& engine);

  obs::Registry registry;
  obs::Histogram& time_to_first_token;
  obs::Histogram& inter_token_latency;
  obs::Histogram& request_latency;
  obs::Histogram& queue_time;
  obs::Histogram& prompt_tokens;
  obs::Histogram& generation_tokens;
  obs::Histogram& max_tokens;
  obs::Histogram& choices;
  obs::Counter& requests;
  obs::Counter& connections_refused;
  obs::Counter& slow_readers;
  obs::Counter& disconnects;
  obs::Gauge& connections;
  obs::Gauge& generations;
  obs::Gauge& ready;
};

}  // namespace trireme::server
