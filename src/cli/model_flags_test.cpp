// What the flags of a model ask for: judged before anything is loaded, and counted in the memory plan.
#include "cli/model_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backends/cpu/cpu_backend.h"
#include "engine/memory.h"
#include "models/geometry.h"

namespace trireme::cli {
namespace {

using testing::HasSubstr;

// As the options see a GPU, and as large a device as they like. It computes nothing.
struct Gpu final : Backend {
  struct Memory final : Device {
    Memory() { chip_.memory_bytes = i64{1} << 50; }
    const Chip& chip() const override { return chip_; }
    std::unique_ptr<Stream> make_stream() override { return nullptr; }
    Result<Buffer> allocate(i64) override { return invalid("nothing is allocated here"); }
    Status copy_in(void*, const void*, i64, Stream&) override { return {}; }
    Status copy_out(void*, const void*, i64, Stream&) override { return {}; }
    bool host_readable() const override { return false; }
    Chip chip_;
  };
  const char* name() const override { return "gpu"; }
  Device& device() override { return device_; }
  const Ops& ops() const override { return ops_; }
  DType act() const override { return DType::kBF16; }
  DType kv_dtype() const override { return DType::kBF16; }
  bool batch_invariant() const override { return false; }
  i64 prepared_bytes(i64 n, i64 k, DType) const override { return 2 * n * k; }
  i64 mla_expanded_room_bytes(const MlaExpandedArgs& a) const override { return room_a_row * a.kv.shape[0]; }
  i64 room_a_row = 256 << 10;
  Memory device_;
  Ops ops_{};
};

models::ModelConfig config_of(const std::string& geometry) {
  engine::RuntimeOptions o;
  o.geometry = geometry;
  o.dummy = true;
  return engine::config_of(o).value();
}
Result<engine::RuntimeOptions> resolved(const std::string& prefill_attention_dtype) {
  ModelFlags flags;
  flags.prefill_attention_dtype = prefill_attention_dtype;
  return flags.resolve();
}
std::string refusal(const engine::RuntimeOptions& options, const models::ModelConfig& config,
                    const Backend& backend) {
  const Status s = engine::check_prefill_attention(options, config, backend);
  return s ? "" : s.error().message;
}

TEST(PrefillAttentionFlag, IsBf16UnlessItSaysFp8) {
  for (const char* name : {"auto", "bfloat16", "bf16"})
    EXPECT_FALSE(resolved(name).value().fp8_prefill_attention) << name;
  EXPECT_TRUE(resolved("fp8").value().fp8_prefill_attention);
  const auto wrong = resolved("fp4");
  ASSERT_FALSE(wrong);
  EXPECT_THAT(wrong.error().message, HasSubstr("--prefill-attention-dtype fp4: use auto, fp8 or bfloat16"));
}

TEST(PrefillAttentionFlag, Fp8IsRefusedWhereItCannotBeHad) {
  const Gpu gpu;
  const auto cpu = cpu::make_oracle_backend().value();
  const auto v3 = config_of("deepseek-v3"), llama = config_of("llama-8b");
  engine::RuntimeOptions o;
  EXPECT_EQ(refusal(o, llama, *cpu), "");
  o.fp8_prefill_attention = true;
  EXPECT_EQ(refusal(o, v3, gpu), "");
  EXPECT_THAT(refusal(o, v3, *cpu), HasSubstr("--prefill-attention-dtype fp8: only with --device cuda"));
  EXPECT_THAT(refusal(o, llama, gpu), HasSubstr("only for MLA"));
  auto other = v3;
  other.mla.v_head_dim = 64;
  EXPECT_THAT(refusal(o, other, gpu), HasSubstr("not of 128 + 64 and 64"));
  o.deterministic = true;
  EXPECT_THAT(refusal(o, v3, gpu), HasSubstr("no effect with --deterministic"));
}

TEST(PrefillAttentionFlag, TheMemoryPlanHasTheRoomOfFp8) {
  Gpu gpu;
  const auto config = config_of("deepseek-v3");
  const auto source = models::shape_source(config);
  const auto workspace = [&](bool fp8) {
    const auto m =
        engine::memory_ledger(config, *source, gpu, {.max_model_len = 4096, .fp8_prefill_attention = fp8});
    EXPECT_TRUE(m) << m.error().message;
    return m ? m->prefill_workspace : 0;
  };
  const i64 without = workspace(false), with = workspace(true);
  EXPECT_GE(with - without, gpu.room_a_row * 4096);
  gpu.room_a_row = 0;
  EXPECT_EQ(workspace(true), without);
}

}  // namespace
}  // namespace trireme::cli
