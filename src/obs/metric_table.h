// Every metric the server shows, in one table: its name, type, meaning, labels, and the names under which
// dashboards made for vLLM and SGLang look for it. docs/metrics.md is made from this table.
#pragma once
#include <array>
#include <span>
#include <string>
#include <string_view>

namespace trireme::obs {

enum class MetricType { kCounter, kGauge, kHistogram };
const char* to_string(MetricType type);

// The order is that of the table.
enum class Metric : int {
  kRequestsRunning,
  kRequestsWaiting,
  kKvCacheUsage,
  kKvBlocksTotal,
  kKvBlocksUsed,
  kKvBlocksCached,
  kPrefixQueries,
  kPrefixHits,
  kPreemptions,
  kPromptTokens,
  kGenerationTokens,
  kCachedPromptTokens,
  kEngineSteps,
  kLastTokenAge,
  kLiveSequences,
  kStartupSeconds,
  kDeviceLost,
  kRequestsReceived,
  kRequestsFinished,
  kRequestsRejected,
  kTimeToFirstToken,
  kInterTokenLatency,
  kRequestLatency,
  kRequestQueueTime,
  kRequestPromptTokens,
  kRequestGenerationTokens,
  kRequestMaxTokens,
  kRequestChoices,
  kHttpRequests,
  kHttpConnections,
  kHttpConnectionsRefused,
  kStreamsActive,
  kSlowReaders,
  kDisconnects,
  kCanaries,
  kReady,
  kProcessResidentBytes,
  kProcessOpenFds,
  kProcessStartTime,
  kCount,
};

struct MetricRow {
  Metric id;
  std::string_view name;  // complete, with prefix and unit
  MetricType type;
  std::string_view help;
  std::array<std::string_view, 2> labels;  // beside the ones on every metric; empty ones are unused
  std::string_view vllm;                   // the same values under vLLM's name; empty: it has none
  std::string_view sglang;                 // likewise
  std::span<const double> buckets;         // of a histogram: upper bounds, ascending, without +Inf
};

// By Metric's order.
std::span<const MetricRow> metric_table();

// docs/metrics.md.
std::string metric_table_markdown();

}  // namespace trireme::obs
