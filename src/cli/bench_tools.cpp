#include "cli/bench_tools.h"

#include <algorithm>
#include <fstream>

#include "base/rng.h"

namespace trireme::cli {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<i32> random_tokens(i64 n, i64 vocab) {
  Rng rng(1);
  std::vector<i32> ids(static_cast<std::size_t>(n));
  for (auto& id : ids) id = static_cast<i32>(rng.below(static_cast<u64>(vocab)));
  return ids;
}

Status write_json(const std::string& path, const Json& json) {
  if (path.empty()) return {};
  std::ofstream out(path);
  out << json.dump(2) << "\n";
  if (!out) return fail(ErrorCode::kUnavailable, "--json: cannot write {}", path);
  return {};
}

}  // namespace trireme::cli
