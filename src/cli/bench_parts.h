// Where the time of a step on a GPU went, part by part, each beside its floor; and the same as a trace.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "models/step_cost.h"
#include "tensor/device.h"

namespace trireme::cli {

struct PartRow {
  std::string name;
  i64 calls = 0;
  double seconds = 0, floor = 0;  // floor 0: none is known
};

// Spans of one name added up, in the order of their first appearance, with the floors of `costs`.
std::vector<PartRow> part_rows(const std::vector<Timeline::Span>& spans,
                               const std::vector<models::PartCost>& costs, const models::ChipRates& chip);
void print_parts(const std::vector<PartRow>& rows);
Json parts_json(const std::vector<PartRow>& rows);

// Spans in the trace-event format that Perfetto and chrome://tracing open.
Status write_trace(const std::string& path, const std::vector<Timeline::Span>& spans);

}  // namespace trireme::cli
