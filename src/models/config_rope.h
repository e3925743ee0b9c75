// The rope part of config.json; see config.h.
#pragma once
#include "models/config.h"
#include "models/config_keys.h"

namespace trireme::models {

// Reads rope_theta and rope_scaling, or rope_parameters (as transformers 5 writes them), into `c`; what is
// wrong with them goes to `keys`. REQUIRES: c.max_position_embeddings is set.
void parse_rope(Keys& keys, ModelConfig& c);

}  // namespace trireme::models
