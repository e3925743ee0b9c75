// A loaded model on a device: what the engine, the scorer and the benches stand on.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "models/model.h"
#include "ops/ops.h"

namespace trireme::engine {

struct RuntimeOptions {
  std::string model;         // folder of a checkpoint
  std::string model_config;  // with dummy weights: a bare config.json (or its folder) instead
  bool dummy = false;        // --load-format dummy
  std::string geometry;      // with dummy weights: a well-known model by name (models/geometry.h)
  i64 layers = 0;            // with dummy weights: fewer layers than the config says; 0: as it says
  std::string device = "auto";
  bool oracle = false;
  int threads = 0;  // 0: one a core
  bool deterministic = false;
  i64 max_model_len = 0;          // 0: what config.json says
  std::optional<DType> kv_dtype;  // default: the backend's
  bool fp8_activations = true;    // on devices that multiply in FP8; see --activation-dtype
  i64 ep_slice = 0;               // models::ModelOptions
  bool fp8_prefill_attention = false;
  models::Loader::Progress progress;
};

struct Runtime {
  models::ModelConfig config;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<models::Model> model;
  DType kv_dtype = DType::kBF16;
  i64 max_model_len = 0;
  double load_seconds = 0;
};

// The config that the options name, checked.
Result<models::ModelConfig> config_of(const RuntimeOptions& options);
// Picks the backend that the options ask for. kUnsupported says which devices this build has.
Result<std::unique_ptr<Backend>> make_backend(const RuntimeOptions& options);
// Prompt and answer together: what the options say, held against the model's positions.
Result<i64> max_model_len_of(const RuntimeOptions& options, const models::ModelConfig& config);
// The type of the KV cache. Routing turns small differences into other experts: where activations are float32
// anyway, the cache of a routed model is too, and the whole computation agrees with float32 to about 1e-5
// (docs/decisions.md).
DType kv_dtype_for(const RuntimeOptions& options, const models::ModelConfig& config, const Backend& backend);
Result<Runtime> load_runtime(const RuntimeOptions& options);

// "auto", "bfloat16", "float32", "fp8" (and the short forms that SGLang and vLLM take).
Result<std::optional<DType>> parse_kv_dtype(const std::string& name);
// What cannot be had together, by name: checked before anything is loaded.
Status check_kv_dtype(DType dtype, const models::ModelConfig& config, const Backend& backend);
Status check_prefill_attention(const RuntimeOptions& options, const models::ModelConfig& config,
                               const Backend& backend);

}  // namespace trireme::engine
