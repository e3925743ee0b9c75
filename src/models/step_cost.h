// What the parts of one forward pass cost at least: bytes that must be moved and operations that must be
// done. Pure arithmetic from a config; the names are the marks that layers and models make.
#pragma once
#include <string>
#include <vector>

#include "models/config.h"
#include "tensor/dtype.h"

namespace trireme::models {

struct StepShape {
  i64 tokens = 1;     // rows of the pass
  i64 context = 1;    // cached tokens that each attends to (its sequence's)
  i64 sequences = 1;  // decode: = tokens
  i64 sampled = 1;    // rows that go through the head
  i64 ep_slice = 1;   // ranks over which the experts are spread; this one gets its share of all ranks' tokens
  bool fp8 = true;    // FP8 weights multiplied as FP8
  i64 kv_token_bytes = 0;     // one layer
  bool fp8_cache = false;     // MLA, absorbed: latents multiplied as the FP8 codes that they are
  bool fp8_expanded = false;  // MLA, expanded: all but the columns with position multiplied in FP8
  bool absorbed =
      true;  // MLA: decode, else expanded (prefill of whole prompts: context = tokens / sequences)
};

struct PartCost {
  std::string name;
  i64 count = 1;         // how often in the pass (layers)
  double bytes = 0;      // of all of them
  double flops = 0;      // likewise, at the rate of BF16
  double fp8_flops = 0;  // at that of FP8
};

std::vector<PartCost> step_cost(const ModelConfig& config, const StepShape& shape);

// Seconds that no version of a part can go below, on a chip that moves `bandwidth` bytes a second and
// multiplies at these rates.
struct ChipRates {
  double bandwidth = 0, fp8_flops = 0, bf16_flops = 0;
};
double floor_seconds(const PartCost& part, const ChipRates& chip);

}  // namespace trireme::models
