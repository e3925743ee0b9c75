#include "models/model.h"

#include <algorithm>
#include <cmath>

#include "layers/linear.h"
#include "models/decoder.h"
#include "models/deepseek_v3.h"

namespace trireme::models {

KvLayout kv_layout(const ModelConfig& config, DType dtype) {
  KvLayout l{.kind = KvLayout::Kind::kGqa, .dtype = dtype, .layers = static_cast<int>(config.layers)};
  if (config.architecture == Architecture::kDeepseekV3) {
    l.kind = KvLayout::Kind::kMla;
    l.latent_dim = static_cast<int>(config.mla.kv_lora_rank);
    l.rope_dim = static_cast<int>(config.mla.qk_rope_head_dim);
  } else {
    l.kv_heads = static_cast<int>(config.kv_heads);
    l.head_dim = static_cast<int>(config.head_dim);
  }
  return l;
}

Result<View> Model::head(const layers::Context& c, const layers::Batch& batch, const View& x,
                         const View& branch, const ConstView& norm, const LinearWeight& weight) const {
  c.mark("head");
  const auto picked = static_cast<i64>(batch.sample_rows.size());
  ASSIGN(View rows, c.take({picked, config_.hidden_size}));
  TRY(c.ops.add({.x = x, .y = branch}, c.stream));
  TRY(c.ops.gather_rows({.x = x, .rows = batch.sample_rows, .out = rows}, c.stream));
  ASSIGN(auto normed, layers::add_rms_norm(c, rows, {}, norm, static_cast<float>(config_.rms_norm_eps),
                                           {.x = true, .q = false}));
  ASSIGN(View logits, layers::linear_f32(c, normed, weight));
  c.mark("end");
  return logits;
}

i64 Model::bytes_per_step(i64 tokens) const {
  double share = 1;
  if (config_.moe.experts > 0) {
    // Expected share of experts that at least one of `tokens` tokens chooses, if choices were uniform.
    const double missed =
        1.0 - static_cast<double>(config_.moe.top_k) / static_cast<double>(config_.moe.experts);
    share = 1.0 - std::pow(missed, static_cast<double>(tokens));
  }
  const auto experts = static_cast<double>(expert_bytes_);
  return weight_bytes_ - embedding_bytes_ - unread_bytes_ - static_cast<i64>(experts * (1.0 - share));
}

Result<std::unique_ptr<Model>> load_model(const ModelConfig& config, WeightSource& source, Backend& backend,
                                          const ModelOptions& options, Loader::Progress progress) {
  // A router's near ties turn the rounding of its inputs into another choice of experts, so these models get
  // the precise products.
  Loader loader(source, backend, config.moe.experts > 0, std::move(progress));
  ASSIGN(auto model, config.architecture == Architecture::kDeepseekV3
                         ? DeepseekV3::load(config, loader, options)
                         : Decoder::load(config, loader, options));
  TRY(backend.finish_loading());
  return model;
}

}  // namespace trireme::models
