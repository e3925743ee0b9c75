#include "cli/bench_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

namespace trireme::cli {

std::vector<PartRow> part_rows(const std::vector<Timeline::Span>& spans,
                               const std::vector<models::PartCost>& costs, const models::ChipRates& chip) {
  std::vector<PartRow> rows;
  for (const auto& span : spans) {
    auto row = std::find_if(rows.begin(), rows.end(), [&](const PartRow& r) { return r.name == span.name; });
    if (row == rows.end()) {
      rows.push_back({.name = span.name});
      row = rows.end() - 1;
      for (const auto& c : costs)
        if (c.name == row->name) row->floor = models::floor_seconds(c, chip);
    }
    ++row->calls;
    row->seconds += span.seconds;
  }
  return rows;
}

void print_parts(const std::vector<PartRow>& rows) {
  double total = 0, floor = 0;
  for (const auto& r : rows) total += r.seconds, floor += r.floor;
  fmt::print("{:<28}{:>7}{:>11}{:>11}{:>9}{:>12}{:>11}\n", "part", "calls", "us each", "ms", "share",
             "floor, ms", "of floor");
  const auto line = [&](const PartRow& r) {
    fmt::print("{:<28}{:>7}{:>11.1f}{:>11.3f}{:>8.1f}%", r.name, r.calls,
               r.seconds * 1e6 / static_cast<double>(std::max<i64>(1, r.calls)), r.seconds * 1e3,
               100 * r.seconds / total);
    if (r.floor > 0)
      fmt::print("{:>12.3f}{:>10.0f}%\n", r.floor * 1e3, 100 * r.floor / r.seconds);
    else
      fmt::print("{:>12}{:>11}\n", "-", "-");
  };
  for (const auto& r : rows) line(r);
  line({.name = "all", .calls = 1, .seconds = total, .floor = floor});
}

Json parts_json(const std::vector<PartRow>& rows) {
  Json out = Json::array();
  for (const auto& r : rows)
    out.push_back(
        {{"part", r.name}, {"calls", r.calls}, {"ms", r.seconds * 1e3}, {"floor_ms", r.floor * 1e3}});
  return out;
}

Status write_trace(const std::string& path, const std::vector<Timeline::Span>& spans) {
  if (path.empty()) return {};
  Json events = Json::array();
  for (const auto& s : spans) {
    events.push_back({{"name", s.name},
                      {"ph", "X"},
                      {"pid", 1},
                      {"tid", 1},
                      {"ts", s.begin * 1e6},
                      {"dur", s.seconds * 1e6}});
  }
  std::ofstream out(path);
  out << Json{{"traceEvents", events}, {"displayTimeUnit", "ms"}}.dump() << "\n";
  if (!out) return fail(ErrorCode::kUnavailable, "--trace: cannot write {}", path);
  return {};
}

}  // namespace trireme::cli
