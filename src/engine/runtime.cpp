#include "engine/runtime.h"

#include "backends/cpu/cpu_backend.h"
#ifdef TRIREME_CUDA
#include "backends/cuda/cuda_backend.h"
#endif
#include "base/clock.h"
#include "base/log.h"
#include "models/geometry.h"

namespace trireme::engine {

Result<std::unique_ptr<Backend>> make_backend(const RuntimeOptions& options) {
  if (options.device != "auto" && options.device != "cpu" && options.device != "cuda") {
    return invalid("--device {}: there are auto, cpu and cuda", options.device);
  }
#ifdef TRIREME_CUDA
  if (options.device == "cuda" || (options.device == "auto" && !options.oracle && cuda::cuda_present())) {
    if (options.oracle) return invalid("--oracle is the reference on the CPU: leave out --device cuda");
    auto backend = cuda::make_cuda_backend(
        {.fp8_activations = options.fp8_activations, .deterministic = options.deterministic});
    if (backend || options.device == "cuda") return backend;
    spdlog::warn("the GPU cannot be used ({}); going on with the CPU", backend.error().message);
  }
#else
  if (options.device == "cuda") {
    return fail(ErrorCode::kUnsupported,
                "--device cuda: this program was built without CUDA; build it with tools/build_cuda, or use "
                "--device cpu");
  }
#endif
  if (options.threads < 0 || options.threads > 1024)
    return invalid("--threads {}: must be 0 (one a core) to 1024", options.threads);
  if (options.oracle) return cpu::make_oracle_backend();
  return cpu::make_cpu_backend(
      {.threads = options.threads, .deterministic = options.deterministic, .isa = {}});
}

Result<models::ModelConfig> config_of(const RuntimeOptions& options) {
  const int given = !options.model.empty() + !options.model_config.empty() + !options.geometry.empty();
  if (given == 0) return invalid("no model given: pass --model DIR");
  if (options.layers > 0 && !options.dummy)
    return invalid("--num-layers is for dummy weights: add --load-format dummy");
  if (!options.dummy) {
    if (options.model.empty())
      return invalid(
          "--model-config and --geometry have no weights: add --load-format dummy, or pass --model DIR");
    return models::load_config(options.model);
  }
  Json json;
  if (!options.geometry.empty()) {
    ASSIGN(json, models::geometry(options.geometry));
  } else {
    const std::string& path = options.model_config.empty() ? options.model : options.model_config;
    ASSIGN(json, read_json_file(path.ends_with(".json") ? path : path + "/config.json"));
  }
  if (options.layers > 0 && json.is_object()) {
    json["num_hidden_layers"] = options.layers;
    if (json.contains("first_k_dense_replace") && json["first_k_dense_replace"].is_number_integer()) {
      json["first_k_dense_replace"] = std::min(options.layers, json["first_k_dense_replace"].get<i64>());
    }
  }
  return models::parse_config(json, options.geometry.empty() ? "config.json" : options.geometry);
}

Result<i64> max_model_len_of(const RuntimeOptions& options, const models::ModelConfig& config) {
  if (options.max_model_len == 0) return config.max_position_embeddings;
  if (options.max_model_len < 2)
    return invalid("--max-model-len {}: must be at least 2", options.max_model_len);
  if (options.max_model_len > config.max_position_embeddings) {
    return invalid("--max-model-len {} is more than the model's {} positions", options.max_model_len,
                   config.max_position_embeddings);
  }
  return options.max_model_len;
}

DType kv_dtype_for(const RuntimeOptions& options, const models::ModelConfig& config, const Backend& backend) {
  const bool routed = config.moe.experts > 0 && backend.act() == DType::kF32;
  return options.kv_dtype.value_or(routed ? DType::kF32 : backend.kv_dtype());
}

Result<Runtime> load_runtime(const RuntimeOptions& options) {
  const Time begin = SteadyClock().now();
  Runtime r;
  ASSIGN(r.config, config_of(options));
  std::unique_ptr<models::WeightSource> source;
  if (options.dummy) {
    source = models::dummy_source(r.config);
  } else {
    ASSIGN(auto checkpoint, formats::Checkpoint::open(options.model));
    source = models::checkpoint_source(std::move(checkpoint), r.config);
  }
  ASSIGN(r.max_model_len, max_model_len_of(options, r.config));
  ASSIGN(r.backend, make_backend(options));
  r.kv_dtype = kv_dtype_for(options, r.config, *r.backend);
  TRY(check_kv_dtype(r.kv_dtype, r.config, *r.backend));
  TRY(check_prefill_attention(options, r.config, *r.backend));
  const models::ModelOptions model_options{.absorb_all = options.deterministic,
                                           .max_positions = r.max_model_len,
                                           .ep_slice = options.ep_slice,
                                           .fp8_prefill_attention = options.fp8_prefill_attention};
  ASSIGN(r.model, models::load_model(r.config, *source, *r.backend, model_options, options.progress));
  r.load_seconds = seconds(SteadyClock().now() - begin);
  return r;
}

Result<std::optional<DType>> parse_kv_dtype(const std::string& name) {
  if (name == "auto") return std::optional<DType>{};
  if (name == "bfloat16" || name == "bf16") return std::optional{DType::kBF16};
  if (name == "float32" || name == "fp32") return std::optional{DType::kF32};
  if (name == "fp8" || name == "fp8_e4m3") return std::optional{DType::kF8E4M3};
  return invalid("--kv-cache-dtype {}: use auto, bfloat16, float32 or fp8", name);
}

Status check_kv_dtype(DType dtype, const models::ModelConfig& config, const Backend& backend) {
  const bool cuda = backend.act() == DType::kBF16,
             mla = config.architecture == models::Architecture::kDeepseekV3;
  if (dtype == DType::kF32 && cuda)
    return fail(ErrorCode::kUnsupported, "--kv-cache-dtype float32: on a GPU use bfloat16 or fp8");
  if (dtype != DType::kF8E4M3) return {};
  if (!cuda) return fail(ErrorCode::kUnsupported, "--kv-cache-dtype fp8: only with --device cuda");
  if (!mla || config.mla.kv_lora_rank % 8 != 0 || config.mla.qk_rope_head_dim % 8 != 0)
    return fail(ErrorCode::kUnsupported,
                "--kv-cache-dtype fp8: only for MLA with latents and rope dimensions in multiples of 8");
  return {};
}

Status check_prefill_attention(const RuntimeOptions& options, const models::ModelConfig& config,
                               const Backend& backend) {
  if (!options.fp8_prefill_attention) return {};
  const auto refused = [](const std::string& why) {
    return fail(ErrorCode::kUnsupported, "--prefill-attention-dtype fp8: {}", why);
  };
  const bool cuda = backend.act() == DType::kBF16,
             mla = config.architecture == models::Architecture::kDeepseekV3;
  if (!cuda) return refused("only with --device cuda");
  if (!mla) return refused("only for MLA; use auto");
  const auto& m = config.mla;
  if (m.qk_nope_head_dim != 128 || m.qk_rope_head_dim != 64 || m.v_head_dim != 128)
    return refused(
        fmt::format("only for heads of 128 + 64 and values of 128, not of {} + {} and {}; use auto",
                    m.qk_nope_head_dim, m.qk_rope_head_dim, m.v_head_dim));
  if (options.deterministic)
    return refused("has no effect with --deterministic, which absorbs every token; leave out one");
  return {};
}

}  // namespace trireme::engine
