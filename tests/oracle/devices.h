// Where the tests that take whole models run, and where they find them.
//
// Every test is instantiated for every way of running a model; one that this build or this machine lacks is
// skipped by name.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "engine/runtime.h"
#ifdef TRIREME_CUDA
#include "backends/cuda/cuda_backend.h"
#endif

namespace trireme {

// TRIREME_SOURCE_DIR and TRIREME_SHARED_MODELS in the environment say where the data lies when the programs
// were copied to another machine.
inline std::string source_dir() {
  const char* const given = std::getenv("TRIREME_SOURCE_DIR");
  return given != nullptr ? given : TRIREME_SOURCE_DIR;
}
inline std::string shared_models() {
  const char* const given = std::getenv("TRIREME_SHARED_MODELS");
  return given != nullptr ? given : TRIREME_SHARED_MODELS;
}

// One way of running a model.
struct Mode {
  const char* name;
  bool cuda = false;
  bool oracle = false;
  bool deterministic = false;
  bool graphs = false;           // decode steps as recorded graphs
  bool fp8_activations = false;  // FP8 checkpoints are multiplied with activations in FP8
  bool fp8_cache = false;
  bool fp8_prefill_attention = false;

  engine::RuntimeOptions options(const std::string& model) const {
    engine::RuntimeOptions o;
    o.model = model;
    o.device = cuda ? "cuda" : "cpu";
    o.oracle = oracle;
    o.deterministic = deterministic;
    o.fp8_activations = fp8_activations;
    if (fp8_cache) o.kv_dtype = DType::kF8E4M3;
    o.fp8_prefill_attention = fp8_prefill_attention;
    return o;
  }
};

inline constexpr Mode kOracle{.name = "oracle", .oracle = true};
inline constexpr Mode kCpu{.name = "cpu"};
inline constexpr Mode kCpuDeterministic{.name = "cpu_deterministic", .deterministic = true};
// What a server does by default.
inline constexpr Mode kCuda{.name = "cuda", .cuda = true, .graphs = true, .fp8_activations = true};
inline constexpr Mode kCudaEager{.name = "cuda_eager", .cuda = true, .fp8_activations = true};
inline constexpr Mode kCudaBf16{.name = "cuda_bf16", .cuda = true, .graphs = true};
inline constexpr Mode kCudaBf16Eager{.name = "cuda_bf16_eager", .cuda = true};
inline constexpr Mode kCudaFp8Cache{
    .name = "cuda_fp8_cache", .cuda = true, .graphs = true, .fp8_activations = true, .fp8_cache = true};
inline constexpr Mode kCudaBf16Fp8Cache{
    .name = "cuda_bf16_fp8_cache", .cuda = true, .graphs = true, .fp8_cache = true};
inline constexpr Mode kCudaFp8Prefill{.name = "cuda_fp8_prefill",
                                      .cuda = true,
                                      .graphs = true,
                                      .fp8_activations = true,
                                      .fp8_prefill_attention = true};
inline constexpr Mode kCudaBf16Fp8Prefill{
    .name = "cuda_bf16_fp8_prefill", .cuda = true, .graphs = true, .fp8_prefill_attention = true};
inline constexpr Mode kCudaFp8CachePrefill{.name = "cuda_fp8_cache_prefill",
                                           .cuda = true,
                                           .graphs = true,
                                           .fp8_activations = true,
                                           .fp8_cache = true,
                                           .fp8_prefill_attention = true};
inline constexpr Mode kCudaDeterministic{.name = "cuda_deterministic",
                                         .cuda = true,
                                         .deterministic = true,
                                         .graphs = true,
                                         .fp8_activations = true};
inline constexpr Mode kCudaDeterministicEager{
    .name = "cuda_deterministic_eager", .cuda = true, .deterministic = true, .fp8_activations = true};
inline constexpr Mode kCudaDeterministicBf16{
    .name = "cuda_deterministic_bf16", .cuda = true, .deterministic = true, .graphs = true};
inline constexpr Mode kCudaDeterministicFp8Cache{.name = "cuda_deterministic_fp8_cache",
                                                 .cuda = true,
                                                 .deterministic = true,
                                                 .graphs = true,
                                                 .fp8_activations = true,
                                                 .fp8_cache = true};

// Why this mode cannot run here; empty when it can.
inline std::string missing(const Mode& mode) {
  if (!mode.cuda) return "";
#ifdef TRIREME_CUDA
  return cuda::cuda_present() ? "" : std::string(mode.name) + ": there is no GPU on this machine";
#else
  return std::string(mode.name) + ": this program was built without CUDA";
#endif
}

#define SKIP_IF_MISSING(mode) \
  if (const std::string why = missing(mode); !why.empty()) GTEST_SKIP() << why

inline void PrintTo(const Mode& mode, std::ostream* out) { *out << mode.name; }

}  // namespace trireme
