#include "server/server_metrics.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>

namespace trireme::server {
namespace {

using obs::Metric;

double resident_bytes() {
  std::ifstream in("/proc/self/statm");
  double size = 0;
  double resident = 0;
  in >> size >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double open_fds() {
  std::error_code error;
  double n = 0;
  for (auto it = std::filesystem::directory_iterator("/proc/self/fd", error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    ++n;
  }
  return n;
}

u64 count(i64 n) { return static_cast<u64>(std::max<i64>(n, 0)); }

}  // namespace

ServerMetrics::ServerMetrics(const std::string& model_name)
    : registry(obs::Registry::Labels{{"model_name", model_name}, {"engine", "0"}}),
      time_to_first_token(registry.histogram(Metric::kTimeToFirstToken)),
      inter_token_latency(registry.histogram(Metric::kInterTokenLatency)),
      request_latency(registry.histogram(Metric::kRequestLatency)),
      queue_time(registry.histogram(Metric::kRequestQueueTime)),
      prompt_tokens(registry.histogram(Metric::kRequestPromptTokens)),
      generation_tokens(registry.histogram(Metric::kRequestGenerationTokens)),
      max_tokens(registry.histogram(Metric::kRequestMaxTokens)),
      choices(registry.histogram(Metric::kRequestChoices)),
      requests(registry.counter(Metric::kRequestsReceived)),
      connections_refused(registry.counter(Metric::kHttpConnectionsRefused)),
      slow_readers(registry.counter(Metric::kSlowReaders)),
      disconnects(registry.counter(Metric::kDisconnects)),
      connections(registry.gauge(Metric::kHttpConnections)),
      generations(registry.gauge(Metric::kStreamsActive)),
      ready(registry.gauge(Metric::kReady)) {
  // Series that dashboards add up are there from the start, at zero.
  for (const auto* reason : {"stop", "length", "abort", "deadline", "error"}) {
    registry.counter(Metric::kRequestsFinished, {reason});
  }
  const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
  registry.gauge(Metric::kProcessStartTime).set(std::chrono::duration<double>(since_1970).count());
}

std::string ServerMetrics::exposition(const Engine& engine) {
  const auto s = engine.stats();
  const auto gauge = [&](Metric metric, double value) { registry.gauge(metric).set(value); };
  const auto counter = [&](Metric metric, i64 value) { registry.counter(metric).raise_to(count(value)); };
  gauge(Metric::kRequestsRunning, s.running);
  gauge(Metric::kRequestsWaiting, s.waiting);
  gauge(Metric::kKvCacheUsage,
        s.kv_blocks_total > 0 ? static_cast<double>(s.kv_blocks_used) / static_cast<double>(s.kv_blocks_total)
                              : 0.0);
  gauge(Metric::kKvBlocksTotal, static_cast<double>(s.kv_blocks_total));
  gauge(Metric::kKvBlocksUsed, static_cast<double>(s.kv_blocks_used));
  gauge(Metric::kKvBlocksCached, static_cast<double>(s.kv_blocks_cached));
  counter(Metric::kPrefixQueries, s.prefix_queries);
  counter(Metric::kPrefixHits, s.prefix_hits);
  counter(Metric::kPreemptions, s.preemptions);
  counter(Metric::kPromptTokens, s.prompt_tokens);
  counter(Metric::kGenerationTokens, s.generation_tokens);
  counter(Metric::kCachedPromptTokens, s.cached_prompt_tokens);
  counter(Metric::kEngineSteps, s.steps);
  gauge(Metric::kLastTokenAge, s.last_token_age_s);
  gauge(Metric::kLiveSequences, s.live_sequences);
  gauge(Metric::kDeviceLost, s.device_error.empty() ? 0 : 1);
  for (const auto& [phase, took] : engine.info().startup_seconds)
    registry.gauge(Metric::kStartupSeconds, {phase}).set(took);
  gauge(Metric::kProcessResidentBytes, resident_bytes());
  gauge(Metric::kProcessOpenFds, open_fds());
  return registry.exposition();
}

}  // namespace trireme::server
