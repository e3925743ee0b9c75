#include "obs/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <variant>

#include "base/check.h"

namespace trireme::obs {
namespace {

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

std::string escape_help(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

std::string braces(const std::string& labels, std::string_view more = {}) {
  if (labels.empty() && more.empty()) return "";
  return fmt::format("{{{}{}{}}}", labels, labels.empty() || more.empty() ? "" : ",", more);
}

}  // namespace

std::string escape_label(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '"')
      out += "\\\"";
    else if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

void Counter::raise_to(u64 value) {
  u64 seen = value_.load(std::memory_order_relaxed);
  while (seen < value && !value_.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds), counts_(std::make_unique<std::atomic<u64>[]>(bounds.size() + 1)) {}

void Histogram::observe(double value) {
  if (std::isnan(value)) return;
  const auto bucket =
      static_cast<std::size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin());
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Histogram::Snapshot Histogram::snapshot() const {
  Snapshot out;
  for (std::size_t i = 0; i <= bounds_.size(); ++i) {
    out.counts.push_back(counts_[i].load(std::memory_order_relaxed));
  }
  out.sum = sum_.load(std::memory_order_relaxed);
  return out;
}

struct Registry::Family {
  // By the text of its labels; a map, so that addresses stay and the exposition has one order.
  std::map<std::string, std::variant<std::monostate, Counter, Gauge, Histogram>> series;
};

Registry::Registry(Labels common, std::span<const MetricRow> rows) : rows_(rows) {
  for (const auto& [name, value] : common) {
    common_ += fmt::format("{}{}=\"{}\"", common_.empty() ? "" : ",", name, escape_label(value));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) families_.push_back(std::make_unique<Family>());
}

Registry::~Registry() = default;

template <class T, class... Args>
T& Registry::find(Metric metric, MetricType type, LabelValues values, Args... args) {
  const auto index = static_cast<std::size_t>(metric);
  CHECK(index < rows_.size() && rows_[index].type == type);
  const MetricRow& row = rows_[index];
  std::string labels;
  std::size_t i = 0;
  for (const auto value : values) {
    CHECK(i < row.labels.size() && !row.labels[i].empty(), "{} has fewer labels", row.name);
    labels += fmt::format("{}{}=\"{}\"", labels.empty() ? "" : ",", row.labels[i], escape_label(value));
    ++i;
  }
  CHECK(i == row.labels.size() || row.labels[i].empty(), "{} has more labels", row.name);
  const std::lock_guard lock(mutex_);
  auto& slot = families_[index]->series[labels];
  if (std::holds_alternative<std::monostate>(slot)) slot.template emplace<T>(args...);
  return std::get<T>(slot);
}

Counter& Registry::counter(Metric metric, LabelValues labels) {
  return find<Counter>(metric, MetricType::kCounter, labels);
}
Gauge& Registry::gauge(Metric metric, LabelValues labels) {
  return find<Gauge>(metric, MetricType::kGauge, labels);
}
Histogram& Registry::histogram(Metric metric, LabelValues labels) {
  return find<Histogram>(metric, MetricType::kHistogram, labels,
                         rows_[static_cast<std::size_t>(metric)].buckets);
}

std::string Registry::exposition() const {
  std::string out;
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const MetricRow& row = rows_[i];
    if (families_[i]->series.empty()) continue;
    for (const auto name : {row.name, row.vllm, row.sglang}) {
      if (name.empty()) continue;
      out +=
          fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, escape_help(row.help), name, to_string(row.type));
      for (const auto& [own, value] : families_[i]->series) {
        const std::string labels = common_.empty() || own.empty() ? common_ + own : common_ + "," + own;
        if (const auto* counter = std::get_if<Counter>(&value)) {
          out += fmt::format("{}{} {}\n", name, braces(labels), counter->value());
        } else if (const auto* gauge = std::get_if<Gauge>(&value)) {
          out += fmt::format("{}{} {}\n", name, braces(labels), number(gauge->value()));
        } else if (const auto* histogram = std::get_if<Histogram>(&value)) {
          const auto seen = histogram->snapshot();
          u64 total = 0;
          for (std::size_t b = 0; b < seen.counts.size(); ++b) {
            total += seen.counts[b];
            const std::string bound = b < row.buckets.size() ? number(row.buckets[b]) : "+Inf";
            out +=
                fmt::format("{}_bucket{} {}\n", name, braces(labels, fmt::format("le=\"{}\"", bound)), total);
          }
          out += fmt::format("{}_sum{} {}\n{}_count{} {}\n", name, braces(labels), number(seen.sum), name,
                             braces(labels), total);
        }
      }
    }
  }
  return out;
}

}  // namespace trireme::obs
