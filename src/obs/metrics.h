// Counters, gauges and histograms, and their exposition in Prometheus' text format.
//
// Threads: everything is thread-safe. Looking a metric up takes a lock; the reference it gives stays good for
// the registry's life, and writing through it is lock-free. Keep references where it matters.
#pragma once
#include <atomic>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "obs/metric_table.h"

namespace trireme::obs {

class Counter {
 public:
  void add(u64 n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  // For a count that is kept elsewhere and only shown here. Never goes down.
  void raise_to(u64 value);
  u64 value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<u64> value_{0};
};

class Gauge {
 public:
  void set(double value) { value_.store(value, std::memory_order_relaxed); }
  void add(double by) { value_.fetch_add(by, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds);
  void observe(double value);
  struct Snapshot {
    std::vector<u64> counts;  // one per bound and one for +Inf; not cumulative
    double sum = 0;
  };
  Snapshot snapshot() const;

 private:
  std::span<const double> bounds_;
  std::unique_ptr<std::atomic<u64>[]> counts_;
  std::atomic<double> sum_{0};
};

using LabelValues = std::initializer_list<std::string_view>;

class Registry {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;
  // `common`: labels on every sample. `rows`: see metric_table.h; outlives the registry.
  explicit Registry(Labels common, std::span<const MetricRow> rows = metric_table());
  ~Registry();

  // REQUIRES: the metric is of that type, and there is one value for each of its labels.
  Counter& counter(Metric metric, LabelValues labels = {});
  Gauge& gauge(Metric metric, LabelValues labels = {});
  Histogram& histogram(Metric metric, LabelValues labels = {});

  // Content type text/plain; version=0.0.4.
  std::string exposition() const;

 private:
  struct Family;
  template <class T, class... Args>
  T& find(Metric metric, MetricType type, LabelValues labels, Args... args);

  std::string common_;
  std::span<const MetricRow> rows_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Family>> families_;
};

// Escaped as a label's value: backslash, quote and newline.
std::string escape_label(std::string_view value);

}  // namespace trireme::obs
