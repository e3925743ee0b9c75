#include "obs/metric_table.h"

#include <fmt/format.h>

namespace trireme::obs {
namespace {

constexpr double kFirstTokenBuckets[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
                                         0.75,  1,     2.5,  5,    7.5,  10,   20,   40,  80,   160};
constexpr double kTokenGapBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                       0.3,   0.4,    0.5,   0.75, 1,     2.5,  5,     10,  20,   40};
constexpr double kRequestBuckets[] = {0.05, 0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,
                                      10,   15,  20,  30,  40,  50, 60,  120, 240, 480};
constexpr double kTokenCountBuckets[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                         1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
constexpr double kChoiceBuckets[] = {1, 2, 5, 10, 20, 50, 100, 128};

using enum MetricType;

constexpr MetricRow kTable[] = {
    {Metric::kRequestsRunning,
     "trireme:num_requests_running",
     kGauge,
     "Requests the engine is working on.",
     {},
     "vllm:num_requests_running",
     "sglang:num_running_reqs",
     {}},
    {Metric::kRequestsWaiting,
     "trireme:num_requests_waiting",
     kGauge,
     "Requests queued in the engine.",
     {},
     "vllm:num_requests_waiting",
     "sglang:num_queue_reqs",
     {}},
    {Metric::kKvCacheUsage,
     "trireme:kv_cache_usage_perc",
     kGauge,
     "Share of the KV blocks held by live requests, 0 to 1.",
     {},
     "vllm:kv_cache_usage_perc",
     "sglang:token_usage",
     {}},
    {Metric::kKvBlocksTotal, "trireme:kv_blocks", kGauge, "KV blocks of the pool.", {}, "", "", {}},
    {Metric::kKvBlocksUsed,
     "trireme:kv_blocks_used",
     kGauge,
     "KV blocks held by live requests.",
     {},
     "",
     "",
     {}},
    {Metric::kKvBlocksCached,
     "trireme:kv_blocks_cached",
     kGauge,
     "KV blocks held by the prefix cache alone; given up on demand.",
     {},
     "",
     "",
     {}},
    {Metric::kPrefixQueries,
     "trireme:prefix_cache_queries_total",
     kCounter,
     "Prompt tokens looked up in the prefix cache.",
     {},
     "vllm:prefix_cache_queries_total",
     "",
     {}},
    {Metric::kPrefixHits,
     "trireme:prefix_cache_hits_total",
     kCounter,
     "Prompt tokens found in the prefix cache.",
     {},
     "vllm:prefix_cache_hits_total",
     "",
     {}},
    {Metric::kPreemptions,
     "trireme:num_preemptions_total",
     kCounter,
     "Times a running request gave up its KV blocks to be computed again.",
     {},
     "vllm:num_preemptions_total",
     "sglang:num_retracted_requests_total",
     {}},
    {Metric::kPromptTokens,
     "trireme:prompt_tokens_total",
     kCounter,
     "Prompt tokens processed.",
     {},
     "vllm:prompt_tokens_total",
     "sglang:prompt_tokens_total",
     {}},
    {Metric::kGenerationTokens,
     "trireme:generation_tokens_total",
     kCounter,
     "Tokens generated.",
     {},
     "vllm:generation_tokens_total",
     "sglang:generation_tokens_total",
     {}},
    {Metric::kCachedPromptTokens,
     "trireme:cached_prompt_tokens_total",
     kCounter,
     "Prompt tokens that the prefix cache made free.",
     {},
     "",
     "sglang:cached_tokens_total",
     {}},
    {Metric::kEngineSteps, "trireme:engine_steps_total", kCounter, "Steps of the engine.", {}, "", "", {}},
    {Metric::kLastTokenAge,
     "trireme:last_token_age_seconds",
     kGauge,
     "Time since the engine last made a token; -1: it never did.",
     {},
     "",
     "",
     {}},
    {Metric::kLiveSequences,
     "trireme:live_sequences",
     kGauge,
     "Sequences the engine still holds any state for.",
     {},
     "",
     "",
     {}},
    {Metric::kStartupSeconds,
     "trireme:startup_seconds",
     kGauge,
     "Seconds that each phase of starting took: load, kv_cache, graphs.",
     {"phase"},
     "",
     "",
     {}},
    {Metric::kDeviceLost,
     "trireme:device_lost",
     kGauge,
     "1 once the device has failed for good: every request ends with an error until a restart.",
     {},
     "",
     "",
     {}},
    {Metric::kRequestsReceived,
     "trireme:num_requests_total",
     kCounter,
     "Generation requests that came in, refused ones included.",
     {},
     "",
     "sglang:num_requests_total",
     {}},
    {Metric::kRequestsFinished,
     "trireme:request_success_total",
     kCounter,
     "Choices that ended, by reason: stop, length, abort, deadline or error.",
     {"finished_reason"},
     "vllm:request_success_total",
     "",
     {}},
    {Metric::kRequestsRejected,
     "trireme:requests_rejected_total",
     kCounter,
     "Generation requests answered with an error before they ran, by HTTP status.",
     {"code"},
     "",
     "",
     {}},
    {Metric::kTimeToFirstToken,
     "trireme:time_to_first_token_seconds",
     kHistogram,
     "From the request's last byte to its first token.",
     {},
     "vllm:time_to_first_token_seconds",
     "sglang:time_to_first_token_seconds",
     kFirstTokenBuckets},
    {Metric::kInterTokenLatency,
     "trireme:inter_token_latency_seconds",
     kHistogram,
     "Time between two tokens of one choice.",
     {},
     "vllm:inter_token_latency_seconds",
     "sglang:inter_token_latency_seconds",
     kTokenGapBuckets},
    {Metric::kRequestLatency,
     "trireme:e2e_request_latency_seconds",
     kHistogram,
     "From the request's last byte to a choice's last token.",
     {},
     "vllm:e2e_request_latency_seconds",
     "sglang:e2e_request_latency_seconds",
     kRequestBuckets},
    {Metric::kRequestQueueTime,
     "trireme:request_queue_time_seconds",
     kHistogram,
     "From a choice's submission to its first step.",
     {},
     "vllm:request_queue_time_seconds",
     "sglang:queue_time_seconds",
     kRequestBuckets},
    {Metric::kRequestPromptTokens,
     "trireme:request_prompt_tokens",
     kHistogram,
     "Prompt tokens of a choice.",
     {},
     "vllm:request_prompt_tokens",
     "",
     kTokenCountBuckets},
    {Metric::kRequestGenerationTokens,
     "trireme:request_generation_tokens",
     kHistogram,
     "Tokens generated for a choice.",
     {},
     "vllm:request_generation_tokens",
     "",
     kTokenCountBuckets},
    {Metric::kRequestMaxTokens,
     "trireme:request_params_max_tokens",
     kHistogram,
     "max_tokens of a choice, or what its default came to.",
     {},
     "vllm:request_params_max_tokens",
     "",
     kTokenCountBuckets},
    {Metric::kRequestChoices,
     "trireme:request_params_n",
     kHistogram,
     "Choices asked for by a request.",
     {},
     "vllm:request_params_n",
     "",
     kChoiceBuckets},
    {Metric::kHttpRequests,
     "trireme:http_requests_total",
     kCounter,
     "HTTP requests answered, by route and status.",
     {"route", "code"},
     "",
     "",
     {}},
    {Metric::kHttpConnections, "trireme:http_connections", kGauge, "Open HTTP connections.", {}, "", "", {}},
    {Metric::kHttpConnectionsRefused,
     "trireme:http_connections_refused_total",
     kCounter,
     "Connections turned away at the connection limit.",
     {},
     "",
     "",
     {}},
    {Metric::kStreamsActive,
     "trireme:generations_active",
     kGauge,
     "Generation requests being answered, streamed or not.",
     {},
     "",
     "",
     {}},
    {Metric::kSlowReaders,
     "trireme:slow_readers_total",
     kCounter,
     "Generations cancelled because the client read too slowly.",
     {},
     "",
     "",
     {}},
    {Metric::kDisconnects,
     "trireme:client_disconnects_total",
     kCounter,
     "Generations cancelled because the client went away.",
     {},
     "",
     "sglang:num_aborted_requests_total",
     {}},
    {Metric::kCanaries,
     "trireme:ready_canaries_total",
     kCounter,
     "One-token requests made to learn whether the engine still answers, by result.",
     {"result"},
     "",
     "",
     {}},
    {Metric::kReady, "trireme:ready", kGauge, "1 when /ready last said so.", {}, "", "", {}},
    {Metric::kProcessResidentBytes,
     "process_resident_memory_bytes",
     kGauge,
     "Resident memory.",
     {},
     "",
     "",
     {}},
    {Metric::kProcessOpenFds, "process_open_fds", kGauge, "Open file descriptors.", {}, "", "", {}},
    {Metric::kProcessStartTime,
     "process_start_time_seconds",
     kGauge,
     "When the server started, in seconds since 1970.",
     {},
     "",
     "",
     {}},
};

static_assert(std::size(kTable) == static_cast<std::size_t>(Metric::kCount));
constexpr bool in_order() {
  for (std::size_t i = 0; i < std::size(kTable); ++i) {
    if (static_cast<std::size_t>(kTable[i].id) != i) return false;
  }
  return true;
}
static_assert(in_order());

}  // namespace

const char* to_string(MetricType type) {
  switch (type) {
    case kCounter:
      return "counter";
    case kGauge:
      return "gauge";
    case kHistogram:
      return "histogram";
  }
  return "untyped";
}

std::span<const MetricRow> metric_table() { return kTable; }

std::string metric_table_markdown() {
  std::string out =
      "# Metrics\n\n"
      "`GET /metrics` answers in Prometheus' text format. Every metric has the label `model_name`; the ones "
      "in\n"
      "the table come on top of it. Where vLLM or SGLang have a metric of the same meaning, its values are\n"
      "shown under their name too, so that dashboards and gateways made for them work unchanged.\n\n"
      "This page is made from `src/obs/metric_table.cpp`, and a test holds the two equal.\n\n"
      "| name | type | labels | meaning | vLLM | SGLang |\n|---|---|---|---|---|---|\n";
  const auto code = [](std::string_view name) {
    return name.empty() ? std::string() : fmt::format("`{}`", name);
  };
  for (const auto& row : kTable) {
    std::string labels;
    for (const auto label : row.labels) {
      if (!label.empty()) labels += (labels.empty() ? "" : ", ") + code(label);
    }
    out += fmt::format("| {} | {} | {} | {} | {} | {} |\n", code(row.name), to_string(row.type), labels,
                       row.help, code(row.vllm), code(row.sglang));
  }
  out += "\n## Buckets of the histograms\n\n| name | upper bounds |\n|---|---|\n";
  for (const auto& row : kTable) {
    if (row.type == kHistogram)
      out += fmt::format("| {} | {} |\n", code(row.name), fmt::join(row.buckets, ", "));
  }
  return out;
}

}  // namespace trireme::obs
