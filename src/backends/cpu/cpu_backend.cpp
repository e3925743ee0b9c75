#include "backends/cpu/cpu_backend.h"

#include <sched.h>

#include <thread>

#include "backends/cpu/attention.h"
#include "backends/cpu/common_ops.h"
#include "backends/cpu/cpu_device.h"
#include "backends/cpu/elementwise.h"
#include "backends/cpu/linear.h"
#include "backends/cpu/onednn.h"
#include "backends/cpu/oracle.h"

namespace trireme::cpu {
namespace {

constexpr int kMaxThreads = 1024;

constexpr Ops kFast = {
    .prepare = prepare,
    .embedding = embedding,
    .rms_norm = rms_norm,
    .add = add,
    .linear = linear,
    .head_linear = head_linear,
    .swiglu = swiglu,
    .rope = rope,
    .mla_append = mla_append,
    .mla_gather = mla_gather,
    .mla_absorbed = mla_absorbed,
    .mla_expanded = mla_expanded,
    .gqa_append = gqa_append,
    .gqa_attention = gqa_attention,
    .moe_gate = moe_gate,
    .moe_permute = moe_permute,
    .grouped_linear = grouped_linear,
    .moe_combine = moe_combine,
    .gather_rows = gather_rows,
    .kv_copy = kv_copy,
    .sample = sample,
};

constexpr Ops kOracle = {
    .prepare = oracle::prepare,
    .embedding = oracle::embedding,
    .rms_norm = oracle::rms_norm,
    .add = oracle::add,
    .linear = oracle::linear,
    .head_linear = oracle::head_linear,
    .swiglu = oracle::swiglu,
    .rope = oracle::rope,
    .mla_append = oracle::mla_append,
    .mla_gather = oracle::mla_gather,
    .mla_absorbed = oracle::mla_absorbed,
    .mla_expanded = oracle::mla_expanded,
    .gqa_append = oracle::gqa_append,
    .gqa_attention = oracle::gqa_attention,
    .moe_gate = moe_gate,
    .moe_permute = moe_permute,
    .grouped_linear = oracle::grouped_linear,
    .moe_combine = moe_combine,
    .gather_rows = gather_rows,
    .kv_copy = kv_copy,
    .sample = sample,
};

class CpuBackend final : public Backend {
 public:
  using PreparedBytes = i64 (*)(i64 n, i64 k, DType stored);
  CpuBackend(const char* name, const Ops& ops, int threads, Isa isa, DType kv, PreparedBytes prepared,
             bool onednn = false)
      : name_(name), ops_(ops), kv_(kv), prepared_(prepared), device_(threads, isa, onednn) {}
  const char* name() const override { return name_; }
  Device& device() override { return device_; }
  const Ops& ops() const override { return ops_; }
  DType act() const override { return DType::kF32; }
  DType kv_dtype() const override { return kv_; }
  bool batch_invariant() const override { return !device_.onednn(); }
  i64 prepared_bytes(i64 n, i64 k, DType stored) const override { return prepared_(n, k, stored); }

 private:
  const char* name_;
  const Ops& ops_;
  DType kv_;
  PreparedBytes prepared_;
  CpuDevice device_;
};

// Cores this process may run on.
int cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

Result<std::unique_ptr<Backend>> make_oracle_backend() {
  return std::make_unique<CpuBackend>("cpu-oracle", kOracle, cores(), Isa::kGeneric, DType::kF32,
                                      oracle::prepared_bytes);
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return invalid("{} threads: use 1 to {}, or 0 for one a core", options.threads, kMaxThreads);
  }
  const Isa isa = options.isa.value_or(best_isa());
  if (!has_isa(isa)) return fail(ErrorCode::kUnsupported, "this CPU lacks {}", kernels_for(isa).name);
  // Without AMX our kernels are as fast as oneDNN's, and their results do not depend on the batch.
  const bool onednn = !options.deterministic && isa == Isa::kAvx512Bf16 && onednn_has_amx();
  return std::make_unique<CpuBackend>("cpu", kFast, options.threads > 0 ? options.threads : cores(), isa,
                                      DType::kBF16, prepared_bytes, onednn);
}

}  // namespace trireme::cpu
