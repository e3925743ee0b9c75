// Llama (arXiv:2302.13971, with Llama 3's rope scaling) and Mixtral (arXiv:2401.04088): grouped-query
// attention, then a dense or a softmax-routed feed-forward. They differ only in that feed-forward and in its
// tensors' names.
#pragma once
#include "layers/gqa.h"
#include "layers/moe.h"
#include "models/model.h"

namespace trireme::models {

struct DecoderLayer {
  ConstView input_norm, post_attention_norm;
  layers::Gqa attention;
  layers::Mlp mlp;  // Llama
  layers::Moe moe;  // Mixtral
};

class Decoder final : public Model {
 public:
  static Result<std::unique_ptr<Model>> load(const ModelConfig& config, Loader& loader,
                                             const ModelOptions& options);
  Result<View> forward(const layers::Context& c, const layers::Batch& batch,
                       std::span<const KvCacheLayer> cache) const override;

 private:
  using Model::Model;
  Result<DecoderLayer> load_layer(Loader& loader, i64 index);

  ConstView embedding_, norm_, cos_sin_;
  LinearWeight head_;
  std::vector<DecoderLayer> layers_;
};

}  // namespace trireme::models
