// config.json of well-known models by name, for benches without weights (--geometry).
#pragma once
#include <string>
#include <vector>

#include "models/config.h"

namespace trireme::models {

std::vector<std::string> geometry_names();
// kNotFound lists the names.
Result<Json> geometry(const std::string& name);

}  // namespace trireme::models
