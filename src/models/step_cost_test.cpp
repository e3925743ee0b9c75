#include "models/step_cost.h"

#include <gtest/gtest.h>

#include "models/geometry.h"

namespace trireme::models {
namespace {

// A chip on which only operations count, or only bytes.
constexpr ChipRates kMultiplies{.bandwidth = 1e30, .fp8_flops = 2e12, .bf16_flops = 1e12};
constexpr ChipRates kMoves{.bandwidth = 1e12, .fp8_flops = 0, .bf16_flops = 0};

ModelConfig deepseek() { return parse_config(geometry("deepseek-v3").value(), "deepseek-v3").value(); }

const PartCost& part(const std::vector<PartCost>& parts, const std::string& name) {
  for (const PartCost& p : parts)
    if (p.name == name) return p;
  throw std::out_of_range(name);
}

TEST(StepCost, AbsorbedAttentionHasTheFloorOfItsCache) {
  StepShape s{.tokens = 128, .context = 2048, .sequences = 128, .kv_token_bytes = 1152};
  const PartCost bf16 = part(step_cost(deepseek(), s), "attention (MLA, absorbed)");
  s.kv_token_bytes = 640;
  s.fp8_cache = true;
  const PartCost fp8 = part(step_cost(deepseek(), s), "attention (MLA, absorbed)");
  const double pairs = 61.0 * 2 * 128 * 128 * 2048;  // layers, multiply and add, rows, heads, tokens
  EXPECT_DOUBLE_EQ(floor_seconds(bf16, kMultiplies), pairs * 1088 / 1e12);
  EXPECT_DOUBLE_EQ(floor_seconds(fp8, kMultiplies), pairs * (64 / 1e12 + 1024 / 2e12));
  EXPECT_DOUBLE_EQ(floor_seconds(bf16, kMoves), 61 * 128 * (2048 * 1152 + 128 * 2176.0) / 1e12);
  EXPECT_DOUBLE_EQ(floor_seconds(fp8, kMoves), 61 * 128 * (2048 * 640 + 128 * 1664.0) / 1e12);
}

TEST(StepCost, ExpandedAttentionInFp8KeepsPositionInBf16) {
  StepShape s{.tokens = 4096, .context = 4096, .sequences = 1, .kv_token_bytes = 1152, .absorbed = false};
  const double pairs = 61.0 * 4096 * 128 * 4096;  // half of them are masked
  EXPECT_DOUBLE_EQ(floor_seconds(part(step_cost(deepseek(), s), "attention (MLA, expanded)"), kMultiplies),
                   pairs * 320 / 1e12);
  s.fp8_expanded = true;
  EXPECT_DOUBLE_EQ(floor_seconds(part(step_cost(deepseek(), s), "attention (MLA, expanded)"), kMultiplies),
                   pairs * (64 / 1e12 + 256 / 2e12));
}

TEST(StepCost, ProductsOfFp8WeightsRunAtTheRateOfTheirActivations) {
  StepShape s{.tokens = 256, .context = 1, .sequences = 256, .kv_token_bytes = 1152};
  const double flops = 61.0 * 2 * 256 * 7168 * 16384;
  EXPECT_DOUBLE_EQ(floor_seconds(part(step_cost(deepseek(), s), "o_proj"), kMultiplies), flops / 2e12);
  s.fp8 = false;
  EXPECT_DOUBLE_EQ(floor_seconds(part(step_cost(deepseek(), s), "o_proj"), kMultiplies), flops / 1e12);
}

}  // namespace
}  // namespace trireme::models
