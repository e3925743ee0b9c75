// What the benches of a model share.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/types.h"

namespace trireme::cli {

double median(std::vector<double> values);  // REQUIRES: not empty
std::vector<i32> random_tokens(i64 n, i64 vocab);
// --json FILE; an empty path writes nothing.
Status write_json(const std::string& path, const Json& json);

}  // namespace trireme::cli
