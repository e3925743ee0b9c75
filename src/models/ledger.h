// What a model's weights are, from its config alone: for the memory ledger of `inspect` and the floors of the
// benches. A test holds it against what loading really takes.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "models/config.h"
#include "ops/ops.h"

namespace trireme::models {

struct WeightGroup {
  std::string part;  // "attention", "routed experts", ...
  std::string name;  // "q_b_proj"
  i64 n = 0, k = 0;  // matrix [n, k]; a vector or table has k = 1 or is not multiplied
  i64 count = 1;     // how many of them
  DType stored = DType::kBF16;
  enum class Use : u8 {
    kMatrix,  // read for every token
    kExpert,  // read for the tokens that choose it
    kLookup,  // embedding: some rows
    kVector,  // norms, biases, rotary tables: kept as float32
    kFuture,  // loaded, not read by an ordinary step (MTP)
  } use = Use::kMatrix;
  i64 elements() const { return n * k * count; }
  i64 stored_bytes() const;  // in the checkpoint, scales included
};

// max_positions: of the rotary tables, as in ModelOptions.
std::vector<WeightGroup> weight_groups(const ModelConfig& config, i64 max_positions, const Backend& backend);

// Bytes that one prepared matrix takes on a backend.
using PreparedBytes = std::function<i64(i64 n, i64 k, DType stored)>;
i64 loaded_bytes(const WeightGroup& group, const PreparedBytes& prepared);

// Floating point operations of the matrix products of one token, head included.
double flops_per_token(const ModelConfig& config, const std::vector<WeightGroup>& groups);

}  // namespace trireme::models
