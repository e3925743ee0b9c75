// What a serving bench found: the figures under the names of vLLM's and SGLang's benches.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/bench_serve_load.h"

namespace trireme::cli {

// Linear interpolation between the two nearest ranks, as numpy does it; 0 of nothing. REQUIRES: 0 <= p <=
// 100.
double percentile(const std::vector<double>& sorted, double p);

struct Distribution {
  double mean = 0, median = 0, deviation = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};
Distribution distribution(std::vector<double> values);

// Limits in milliseconds that a good request keeps.
struct Goodput {
  std::optional<double> ttft, tpot, itl, e2el;  // itl: of the request's mean gap
  bool asked() const { return ttft || tpot || itl || e2el; }
};
// "ttft:200", "tpot:50", "itl:50", "e2el:5000".
Result<Goodput> parse_goodput(const std::vector<std::string>& terms);

struct BenchReport {
  i64 completed = 0, failed = 0;
  std::map<std::string, i64> errors;                  // by kind
  std::map<std::string, std::string> error_examples;  // the first of each kind
  double duration = 0;                                // seconds
  i64 input_tokens = 0, output_tokens = 0, cached_tokens = 0;
  bool counted = true;  // every token count came from the server
  double request_throughput = 0, input_throughput = 0, output_throughput = 0, total_throughput = 0;
  std::optional<double> goodput;       // requests a second that kept the limits
  Distribution ttft, tpot, itl, e2el;  // milliseconds
  Distribution send_delay;             // milliseconds between a request's time and its sending
  int peak_concurrency = 0;
  double client_cpu = 0;  // share of one core that the load generator took
  bool stopped = false;
};
// ITL is the time between pieces divided by the mean number of tokens in a piece; TPOT is the time after the
// first token divided by the number of the tokens after it.
BenchReport make_report(const LoadResult& load, const Goodput& limits = {});

std::string report_text(const BenchReport& report);
Json report_json(const BenchReport& report);

}  // namespace trireme::cli
