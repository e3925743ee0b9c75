#include "cli/bench_report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

namespace trireme::cli {
namespace {

// Milliseconds of one request.
struct Latencies {
  double ttft = 0, tpot = 0, itl = 0, e2el = 0;
};

// How many tokens a piece of the output holds, beyond the first piece.
double tokens_per_piece(const RequestRecord& r) {
  if (r.gaps.empty()) return 1;
  return std::max(1.0, static_cast<double>(r.output_tokens - 1) / static_cast<double>(r.gaps.size()));
}

Latencies latencies(const RequestRecord& r) {
  Latencies out;
  out.ttft = r.ttft * 1e3;
  out.e2el = r.e2e * 1e3;
  if (r.output_tokens > 1) out.tpot = (r.e2e - r.ttft) * 1e3 / static_cast<double>(r.output_tokens - 1);
  for (const float gap : r.gaps) out.itl += static_cast<double>(gap) * 1e3;
  if (!r.gaps.empty()) out.itl /= static_cast<double>(r.gaps.size()) * tokens_per_piece(r);
  return out;
}

bool within(const Latencies& l, const Goodput& limits) {
  const auto keeps = [](double value, const std::optional<double>& limit) {
    return !limit || value <= *limit;
  };
  return keeps(l.ttft, limits.ttft) && keeps(l.tpot, limits.tpot) && keeps(l.itl, limits.itl) &&
         keeps(l.e2el, limits.e2el);
}

void append_distribution(std::string& out, const char* title, const char* name, const Distribution& d) {
  fmt::format_to(std::back_inserter(out), "{:-^56}\n", fmt::format(" {} ", title));
  const std::pair<const char*, double> rows[] = {
      {"Mean", d.mean}, {"Median", d.median}, {"P90", d.p90}, {"P95", d.p95}, {"P99", d.p99}};
  for (const auto& [label, value] : rows) {
    fmt::format_to(std::back_inserter(out), "{:<40}{:>16.2f}\n", fmt::format("{} {} (ms):", label, name),
                   value);
  }
}

void put_distribution(Json& json, const std::string& name, const Distribution& d) {
  json["mean_" + name + "_ms"] = d.mean;
  json["median_" + name + "_ms"] = d.median;
  json["std_" + name + "_ms"] = d.deviation;
  json["p90_" + name + "_ms"] = d.p90;
  json["p95_" + name + "_ms"] = d.p95;
  json["p99_" + name + "_ms"] = d.p99;
  json["max_" + name + "_ms"] = d.max;
}

}  // namespace

double percentile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return 0;
  const double rank = p / 100 * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(rank);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (rank - static_cast<double>(low));
}

Distribution distribution(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  double sum = 0, squares = 0;
  for (const double v : values) sum += v;
  const double n = static_cast<double>(values.size()), mean = sum / n;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {.mean = mean,
          .median = percentile(values, 50),
          .deviation = std::sqrt(squares / n),
          .p90 = percentile(values, 90),
          .p95 = percentile(values, 95),
          .p99 = percentile(values, 99),
          .max = values.back()};
}

Result<Goodput> parse_goodput(const std::vector<std::string>& terms) {
  Goodput out;
  for (const auto& term : terms) {
    const auto colon = term.find(':');
    const auto name = term.substr(0, colon);
    std::optional<double>* slot = name == "ttft"                    ? &out.ttft
                                  : name == "tpot"                  ? &out.tpot
                                  : name == "itl"                   ? &out.itl
                                  : name == "e2el" || name == "e2e" ? &out.e2el
                                                                    : nullptr;
    double value = 0;
    const char* begin = term.data() + std::min(colon, term.size() - 1) + 1;
    const char* end = term.data() + term.size();
    const auto [rest, error] = std::from_chars(begin, end, value);
    if (slot == nullptr || colon == std::string::npos || error != std::errc() || rest != end ||
        !(value > 0)) {
      return invalid("--goodput {}: give limits in milliseconds as in ttft:200 tpot:50 itl:50 e2el:5000",
                     term);
    }
    *slot = value;
  }
  return out;
}

BenchReport make_report(const LoadResult& load, const Goodput& limits) {
  BenchReport out;
  out.duration = load.duration;
  out.peak_concurrency = load.peak_concurrency;
  out.stopped = load.stopped;
  std::vector<double> ttft, tpot, itl, e2el, delay;
  i64 good = 0;
  for (const auto& r : load.requests) {
    delay.push_back(std::max(0.0, r.sent - r.due) * 1e3);
    if (!r.ok) {
      ++out.failed;
      ++out.errors[r.error_kind];
      out.error_examples.emplace(r.error_kind, r.error);
      continue;
    }
    ++out.completed;
    out.input_tokens += r.prompt_tokens;
    out.output_tokens += r.output_tokens;
    out.cached_tokens += r.cached_tokens;
    out.counted = out.counted && r.counted;
    const Latencies l = latencies(r);
    good += within(l, limits);
    ttft.push_back(l.ttft);
    e2el.push_back(l.e2el);
    if (r.output_tokens > 1) tpot.push_back(l.tpot);
    const double tokens = tokens_per_piece(r);
    for (const float gap : r.gaps) itl.push_back(static_cast<double>(gap) * 1e3 / tokens);
  }
  if (load.duration > 0) {
    const auto rate = [&](i64 n) { return static_cast<double>(n) / load.duration; };
    out.request_throughput = rate(out.completed);
    out.input_throughput = rate(out.input_tokens);
    out.output_throughput = rate(out.output_tokens);
    out.total_throughput = rate(out.input_tokens + out.output_tokens);
    out.client_cpu = load.cpu_seconds / load.duration;
    if (limits.asked()) out.goodput = rate(good);
  }
  out.ttft = distribution(std::move(ttft));
  out.tpot = distribution(std::move(tpot));
  out.itl = distribution(std::move(itl));
  out.e2el = distribution(std::move(e2el));
  out.send_delay = distribution(std::move(delay));
  return out;
}

std::string report_text(const BenchReport& r) {
  std::string out = fmt::format("{:=^56}\n", " Serving bench ");
  const auto whole = [&](const char* label, i64 value) {
    fmt::format_to(std::back_inserter(out), "{:<40}{:>16}\n", label, value);
  };
  const auto real = [&](const char* label, double value) {
    fmt::format_to(std::back_inserter(out), "{:<40}{:>16.2f}\n", label, value);
  };
  whole("Successful requests:", r.completed);
  whole("Failed requests:", r.failed);
  for (const auto& [kind, count] : r.errors) {
    fmt::format_to(std::back_inserter(out), "  {:<38}{:>16}\n    {}\n", kind + ":", count,
                   r.error_examples.at(kind));
  }
  whole("Most requests at once:", r.peak_concurrency);
  real("Duration (s):", r.duration);
  whole("Input tokens:", r.input_tokens);
  if (r.cached_tokens > 0) whole("  from the prefix cache:", r.cached_tokens);
  whole(r.counted ? "Output tokens:" : "Output tokens (pieces counted):", r.output_tokens);
  real("Request throughput (req/s):", r.request_throughput);
  if (r.goodput) real("Request goodput (req/s):", *r.goodput);
  real("Input token throughput (tok/s):", r.input_throughput);
  real("Output token throughput (tok/s):", r.output_throughput);
  real("Total token throughput (tok/s):", r.total_throughput);
  if (r.send_delay.max > 0) real("P99 delay of sending (ms):", r.send_delay.p99);
  real("CPU of this client (% of a core):", r.client_cpu * 100);
  append_distribution(out, "Time to first token", "TTFT", r.ttft);
  append_distribution(out, "Time per output token after the first", "TPOT", r.tpot);
  append_distribution(out, "Inter-token latency", "ITL", r.itl);
  append_distribution(out, "End-to-end latency", "E2EL", r.e2el);
  out += std::string(56, '=') + "\n";
  if (!r.counted) out += "The server sent no usage for some requests: their tokens are counted as pieces.\n";
  if (r.stopped) out += "Stopped before all requests had ended: only those that had are counted.\n";
  return out;
}

Json report_json(const BenchReport& r) {
  Json out{{"completed", r.completed},
           {"failed", r.failed},
           {"errors", r.errors},
           {"error_examples", r.error_examples},
           {"duration", r.duration},
           {"total_input_tokens", r.input_tokens},
           {"total_output_tokens", r.output_tokens},
           {"total_cached_tokens", r.cached_tokens},
           {"token_counts_exact", r.counted},
           {"request_throughput", r.request_throughput},
           {"input_throughput", r.input_throughput},
           {"output_throughput", r.output_throughput},
           {"total_token_throughput", r.total_throughput},
           {"max_concurrent_requests", r.peak_concurrency},
           {"client_cpu_cores", r.client_cpu},
           {"stopped", r.stopped}};
  if (r.goodput) out["request_goodput"] = *r.goodput;
  put_distribution(out, "ttft", r.ttft);
  put_distribution(out, "tpot", r.tpot);
  put_distribution(out, "itl", r.itl);
  put_distribution(out, "e2el", r.e2el);
  put_distribution(out, "send_delay", r.send_delay);
  return out;
}

}  // namespace trireme::cli
