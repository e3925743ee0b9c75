#include "models/decoder.h"

namespace trireme::models {

Result<DecoderLayer> Decoder::load_layer(Loader& loader, i64 index) {
  const auto& c = config_;
  const std::string base = fmt::format("model.layers.{}.", index), attn = base + "self_attn.";
  DecoderLayer l;
  ASSIGN(l.input_norm, loader.vector_f32(base + "input_layernorm.weight", c.hidden_size));
  ASSIGN(l.post_attention_norm, loader.vector_f32(base + "post_attention_layernorm.weight", c.hidden_size));

  auto& a = l.attention;
  a.heads = static_cast<int>(c.heads), a.kv_heads = static_cast<int>(c.kv_heads), a.head_dim = c.head_dim;
  a.window = c.sliding_window;
  a.scale = static_cast<float>(softmax_scale(c));
  a.cos_sin = cos_sin_;
  ASSIGN(a.q, loader.linear(attn + "q_proj", c.heads * c.head_dim, c.hidden_size, c.attention_bias));
  ASSIGN(a.k, loader.linear(attn + "k_proj", c.kv_heads * c.head_dim, c.hidden_size, c.attention_bias));
  ASSIGN(a.v, loader.linear(attn + "v_proj", c.kv_heads * c.head_dim, c.hidden_size, c.attention_bias));
  ASSIGN(a.o, loader.linear(attn + "o_proj", c.hidden_size, c.heads * c.head_dim, c.attention_bias));

  if (c.architecture == Architecture::kLlama) {
    const std::string ff = base + "mlp.";
    ASSIGN(l.mlp.gate_up,
           loader.stacked({{ff + "gate_proj", c.intermediate_size}, {ff + "up_proj", c.intermediate_size}},
                          c.hidden_size));
    ASSIGN(l.mlp.down, loader.linear(ff + "down_proj", c.hidden_size, c.intermediate_size));
    return l;
  }
  auto& m = l.moe;
  const std::string ff = base + "block_sparse_moe.";
  m.scoring = Scoring::kSoftmaxTopK;
  m.experts = static_cast<int>(c.moe.experts), m.top_k = static_cast<int>(c.moe.top_k);
  ASSIGN(m.router, loader.linear_f32(ff + "gate", c.moe.experts, c.hidden_size));
  const i64 before = loader.weight_bytes();
  const auto expert = [&](i64 e, const char* part) { return fmt::format("{}experts.{}.{}", ff, e, part); };
  const i64 width = c.moe.intermediate_size;
  ASSIGN(m.gate_up, loader.group(c.moe.experts, c.hidden_size, [&](i64 e) {
    return Loader::Parts{{expert(e, "w1"), width}, {expert(e, "w3"), width}};
  }));
  ASSIGN(m.down, loader.group(c.moe.experts, width, [&](i64 e) {
    return Loader::Parts{{expert(e, "w2"), c.hidden_size}};
  }));
  expert_bytes_ += loader.weight_bytes() - before;
  return l;
}

Result<std::unique_ptr<Model>> Decoder::load(const ModelConfig& config, Loader& loader,
                                             const ModelOptions& options) {
  if (config.mlp_bias) return fail(ErrorCode::kUnsupported, "config.json: mlp_bias is not supported");
  std::unique_ptr<Decoder> model(new Decoder(config));
  const i64 positions = options.max_positions > 0 ? options.max_positions : config.max_position_embeddings;
  ASSIGN(model->cos_sin_, loader.upload_f32(rope_table(config, positions), {positions, config.head_dim}));
  ASSIGN(model->embedding_, loader.table("model.embed_tokens.weight", config.vocab_size, config.hidden_size));
  model->unread_bytes_ = model->cos_sin_.bytes();
  model->embedding_bytes_ = model->embedding_.bytes();
  for (i64 i = 0; i < config.layers; ++i) {
    ASSIGN(auto layer, model->load_layer(loader, i));
    model->layers_.push_back(std::move(layer));
  }
  ASSIGN(model->norm_, loader.vector_f32("model.norm.weight", config.hidden_size));
  ASSIGN(model->head_, loader.linear(config.tie_word_embeddings ? "model.embed_tokens" : "lm_head",
                                     config.vocab_size, config.hidden_size));
  model->weight_bytes_ = model->loaded_bytes_ = loader.weight_bytes();
  model->buffers_ = loader.take_buffers();
  return model;
}

Result<View> Decoder::forward(const layers::Context& c, const layers::Batch& given,
                              std::span<const KvCacheLayer> cache) const {
  const float eps = static_cast<float>(config_.rms_norm_eps);
  layers::Batch batch = given;
  TRY(layers::plan_attention(c, batch.all, cache[0].layout, batch.rows(), static_cast<int>(config_.heads)));
  ASSIGN(View x, c.take({batch.rows(), config_.hidden_size}));
  TRY(c.ops.embedding({.ids = batch.tokens, .table = embedding_, .out = x}, c.stream));
  ASSIGN(View branch, c.take({batch.rows(), config_.hidden_size}));
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const auto& layer = layers_[i];
    ArenaScope scope(c.arena);
    c.mark("norm");
    ASSIGN(auto h, layers::add_rms_norm(c, x, i == 0 ? ConstView{} : branch, layer.input_norm, eps,
                                        layer.attention.wants()));
    TRY(layers::gqa(c, layer.attention, batch, cache[i], h, branch));
    c.mark("norm");
    const bool dense = layer.moe.experts == 0;
    ASSIGN(auto g, layers::add_rms_norm(c, x, branch, layer.post_attention_norm, eps,
                                        dense ? layer.mlp.wants() : layer.moe.wants()));
    TRY(dense ? layers::mlp(c, layer.mlp, g, branch) : layers::moe(c, layer.moe, g, branch));
  }
  return head(c, batch, x, branch, norm_, head_);
}

}  // namespace trireme::models
