// The scales of FP8 products in the attention of prompts, on real weights: what kv_b_proj makes of latents
// lies within them, and a backend that has no such products gives the same bits with the permission as
// without.
#include <gtest/gtest.h>

#include "backends/cpu/cpu_backend.h"
#include "base/rng.h"
#include "compare.h"
#include "devices.h"
#include "formats/safetensors.h"
#include "wrapped_backend.h"

namespace trireme {
namespace {

// Of every call: the largest key without position and the largest value, in units of their scale.
struct Largest {
  float key = 0, value = 0;
  int calls = 0;
};
Largest* largest = nullptr;  // ops are plain functions
Status (*real_expanded)(const MlaExpandedArgs&, Stream&) = nullptr;

Status watched_expanded(const MlaExpandedArgs& a, Stream& s) {
  const i64 width = a.nope + a.v;
  const auto* const kv = a.kv.as<float>();
  for (i64 i = 0; i < a.kv.shape.elements(); ++i) {
    if (i % width < a.nope)
      largest->key = std::max(largest->key, std::abs(kv[i]) / a.fp8.k_scale);
    else
      largest->value = std::max(largest->value, std::abs(kv[i]) / a.fp8.v_scale);
  }
  ++largest->calls;
  return real_expanded(a, s);
}

class WatchedBackend final : public WrappedBackend {
 public:
  WatchedBackend() : WrappedBackend(cpu::make_oracle_backend().value()) {
    real_expanded = ops_.mla_expanded;
    ops_.mla_expanded = watched_expanded;
  }
};

class Fp8Products : public testing::TestWithParam<const char*> {
 protected:
  // The logits of a prompt's last token.
  std::vector<float> logits(bool permitted) {
    const std::string dir = source_dir() + GetParam();
    engine::Runtime r;
    r.config = models::load_config(dir).value();
    const auto source = models::checkpoint_source(formats::Checkpoint::open(dir).value(), r.config);
    if (permitted)
      r.backend = std::make_unique<WatchedBackend>();
    else
      r.backend = cpu::make_oracle_backend().value();
    r.model = models::load_model(r.config, *source, *r.backend, {.fp8_prefill_attention = permitted}).value();
    r.kv_dtype = DType::kF32;
    std::vector<i32> tokens(200);
    Rng rng(17);
    for (i32& t : tokens) t = static_cast<i32>(rng.below(static_cast<u64>(r.config.vocab_size)));
    return engine::DirectRunner::create(r, 256).value()->prefill(tokens, 256).value();
  }
};

TEST_P(Fp8Products, KeysAndValuesLieWithinTheirScalesAndThePermissionChangesNothingHere) {
  Largest found;
  largest = &found;
  const auto with = logits(true), without = logits(false);
  largest = nullptr;
  EXPECT_EQ(with, without);
  EXPECT_GT(found.calls, 0);
  fmt::print("{}: of 448, keys up to {:.1f}, values up to {:.1f}\n", GetParam(), found.key, found.value);
  for (const float most : {found.key, found.value}) {
    EXPECT_LE(most, 448);
    EXPECT_GT(most, 4);  // far above the smallest codes
  }
}

std::string name_of(const testing::TestParamInfo<const char*>& info) {
  return std::string(info.param).ends_with("demo") ? "demo" : "tiny";
}
INSTANTIATE_TEST_SUITE_P(All, Fp8Products,
                         testing::Values("/models/trireme-demo", "/tests/oracle/data/deepseek"), name_of);

}  // namespace
}  // namespace trireme
