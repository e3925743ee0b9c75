// DeepSeek-V3 (arXiv:2412.19437): MLA, dense first layers, then sigmoid-routed mixture of experts.
#pragma once
#include "layers/mla.h"
#include "layers/moe.h"
#include "models/model.h"

namespace trireme::models {

struct DeepseekLayer {
  ConstView input_norm, post_attention_norm;
  layers::Mla attention;
  bool dense = false;
  layers::Mlp mlp;  // dense layers
  layers::Moe moe;  // the others
};

// The multi-token-prediction layer: eh_proj(enorm(embedding of token i+1), hnorm(hidden i)), one layer, a
// norm. Embedding and head are the main model's.
struct DeepseekMtp {
  ConstView enorm, hnorm, head_norm;
  LinearWeight eh_proj;  // [hidden, 2 hidden]
  DeepseekLayer layer;
};

class DeepseekV3 final : public Model {
 public:
  static Result<std::unique_ptr<Model>> load(const ModelConfig& config, Loader& loader,
                                             const ModelOptions& options);
  Result<View> forward(const layers::Context& c, const layers::Batch& batch,
                       std::span<const KvCacheLayer> cache) const override;
  const std::vector<DeepseekMtp>& mtp() const { return mtp_; }  // for speculation; not part of forward()

 private:
  using Model::Model;
  Result<DeepseekLayer> load_layer(Loader& loader, i64 index, const ModelOptions& options);
  Status run_layer(const layers::Context& c, const DeepseekLayer& layer, const layers::Batch& batch,
                   const KvCacheLayer& cache, const View& x, const ConstView& before,
                   const View& branch) const;

  ConstView embedding_, norm_, cos_sin_;
  In<i32> place_;  // [experts]: with ModelOptions::ep_slice
  LinearWeight head_;
  std::vector<DeepseekLayer> layers_;
  std::vector<DeepseekMtp> mtp_;
};

}  // namespace trireme::models
