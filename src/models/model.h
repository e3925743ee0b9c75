// A model: weights and the order of layers. One interface for every architecture.
//
// Immutable after load; forward() may be called by one thread at a time for each arena and stream.
#pragma once
#include <memory>
#include <span>

#include "layers/context.h"
#include "models/config.h"
#include "models/weights.h"

namespace trireme::models {

struct ModelOptions {
  bool absorb_all = false;  // MLA in its absorbed form for every token (--deterministic)
  i64 max_positions = 0;    // of the rotary tables; 0: max_position_embeddings
  // Measure one GPU of an expert-parallel group of so many: only its share of the routed experts is here, and
  // the tokens that the other ranks would send are stood in for by this rank's own.
  i64 ep_slice = 0;
  bool fp8_prefill_attention = false;  // MLA's expanded form may multiply in FP8
};

KvLayout kv_layout(const ModelConfig& config, DType dtype);

class Model {
 public:
  virtual ~Model() = default;
  const ModelConfig& config() const { return config_; }
  KvLayout kv_layout(DType dtype) const { return models::kv_layout(config_, dtype); }
  i64 weight_bytes() const { return weight_bytes_; }
  i64 loaded_bytes() const { return loaded_bytes_; }  // with what forward() does not read (MTP)
  // Weights that one decode step of `tokens` tokens reads, in bytes: routed experts counted as far as
  // `tokens` tokens can choose them.
  i64 bytes_per_step(i64 tokens) const;

  // Computes the step's tokens, writing their KV into `cache` (one entry a layer). Returns the logits of
  // batch.sample_rows, [sample_rows, vocab] float32, in the context's arena.
  virtual Result<View> forward(const layers::Context& c, const layers::Batch& batch,
                               std::span<const KvCacheLayer> cache) const = 0;

 protected:
  explicit Model(ModelConfig config) : config_(std::move(config)) {}
  // The last norm and the head, over the rows that are sampled from. x + branch is the residual stream.
  Result<View> head(const layers::Context& c, const layers::Batch& batch, const View& x, const View& branch,
                    const ConstView& norm, const LinearWeight& weight) const;
  ModelConfig config_;
  i64 weight_bytes_ = 0, loaded_bytes_ = 0;
  i64 expert_bytes_ = 0;     // of all routed experts of all layers
  i64 unread_bytes_ = 0;     // rotary table, and matrices that only prompts are multiplied with
  i64 embedding_bytes_ = 0;  // looked up, not read through, in a step (0 when it is the head's matrix too)
  std::vector<Buffer> buffers_;
};

// Builds config.architecture from the source. Errors name the tensor.
Result<std::unique_ptr<Model>> load_model(const ModelConfig& config, WeightSource& source, Backend& backend,
                                          const ModelOptions& options, Loader::Progress progress = {});

}  // namespace trireme::models
