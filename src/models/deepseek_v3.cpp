#include "models/deepseek_v3.h"

namespace trireme::models {

Result<DeepseekLayer> DeepseekV3::load_layer(Loader& loader, i64 index, const ModelOptions& options) {
  const auto& c = config_;
  const std::string base = fmt::format("model.layers.{}.", index), attn = base + "self_attn.",
                    ff = base + "mlp.";
  DeepseekLayer l;
  ASSIGN(l.input_norm, loader.vector_f32(base + "input_layernorm.weight", c.hidden_size));
  ASSIGN(l.post_attention_norm, loader.vector_f32(base + "post_attention_layernorm.weight", c.hidden_size));

  auto& a = l.attention;
  const int heads = static_cast<int>(c.heads);
  a.heads = heads;
  a.nope = c.mla.qk_nope_head_dim, a.rope = c.mla.qk_rope_head_dim, a.v = c.mla.v_head_dim,
  a.latent = c.mla.kv_lora_rank;
  a.eps = static_cast<float>(c.rms_norm_eps);
  a.scale = static_cast<float>(softmax_scale(c));
  a.interleaved = c.rope_interleave;
  a.cos_sin = cos_sin_;
  a.absorb_all = options.absorb_all;
  a.low_rank_q = c.mla.q_lora_rank > 0;
  if (a.low_rank_q) {
    ASSIGN(a.q_a, loader.linear(attn + "q_a_proj", c.mla.q_lora_rank, c.hidden_size, c.attention_bias));
    ASSIGN(a.q_a_norm, loader.vector_f32(attn + "q_a_layernorm.weight", c.mla.q_lora_rank));
    ASSIGN(a.q_b, loader.linear(attn + "q_b_proj", heads * c.mla.qk_head_dim(), c.mla.q_lora_rank));
  } else {
    ASSIGN(a.q_b, loader.linear(attn + "q_proj", heads * c.mla.qk_head_dim(), c.hidden_size));
  }
  ASSIGN(a.kv_a,
         loader.linear(attn + "kv_a_proj_with_mqa", a.latent + a.rope, c.hidden_size, c.attention_bias));
  ASSIGN(a.kv_a_norm, loader.vector_f32(attn + "kv_a_layernorm.weight", a.latent));
  const i64 kv_rows = heads * (a.nope + a.v);
  ASSIGN(a.kv_b, loader.linear(attn + "kv_b_proj", kv_rows, a.latent));
  if (index < c.layers) unread_bytes_ += a.kv_b.stored_bytes;  // a decode step is absorbed
  ASSIGN(a.w_uk, loader.heads(attn + "kv_b_proj", kv_rows, a.latent, heads, a.nope + a.v, 0, a.nope, true));
  ASSIGN(a.w_uv,
         loader.heads(attn + "kv_b_proj", kv_rows, a.latent, heads, a.nope + a.v, a.nope, a.v, false));
  ASSIGN(a.o, loader.linear(attn + "o_proj", c.hidden_size, heads * a.v, c.attention_bias));

  const auto mlp = [&](const std::string& name, i64 width) -> Result<layers::Mlp> {
    layers::Mlp m;
    ASSIGN(m.gate_up, loader.stacked({name + "gate_proj", name + "up_proj"}, width, c.hidden_size));
    ASSIGN(m.down, loader.linear(name + "down_proj", c.hidden_size, width));
    return m;
  };
  l.dense = c.moe.experts == 0 || index < c.moe.first_dense_layers;
  if (l.dense) {
    ASSIGN(l.mlp, mlp(ff, c.intermediate_size));
    return l;
  }
  auto& m = l.moe;
  m.experts = static_cast<int>(c.moe.experts), m.top_k = static_cast<int>(c.moe.top_k);
  m.groups = static_cast<int>(c.moe.groups), m.top_groups = static_cast<int>(c.moe.top_groups);
  m.normalise = c.moe.normalise;
  m.routed_scale = static_cast<float>(c.moe.routed_scaling_factor);
  ASSIGN(m.router, loader.linear_f32(ff + "gate", c.moe.experts, c.hidden_size));
  ASSIGN(m.bias, loader.vector_f32(ff + "gate.e_score_correction_bias", c.moe.experts));
  const i64 before = loader.weight_bytes();
  for (i64 e = 0; e < c.moe.experts; ++e) {
    ASSIGN(auto expert, mlp(fmt::format("{}experts.{}.", ff, e), c.moe.intermediate_size));
    m.gate_up.push_back(std::move(expert.gate_up));
    m.down.push_back(std::move(expert.down));
  }
  if (index < c.layers) expert_bytes_ += loader.weight_bytes() - before;
  m.has_shared = c.moe.shared_experts > 0;
  if (m.has_shared) {
    ASSIGN(m.shared, mlp(ff + "shared_experts.", c.moe.shared_experts * c.moe.intermediate_size));
  }
  return l;
}

Result<std::unique_ptr<Model>> DeepseekV3::load(const ModelConfig& config, Loader& loader,
                                                const ModelOptions& options) {
  std::unique_ptr<DeepseekV3> model(new DeepseekV3(config));
  const i64 positions = options.max_positions > 0 ? options.max_positions : config.max_position_embeddings;
  ASSIGN(model->cos_sin_,
         loader.upload_f32(rope_table(config, positions), {positions, config.mla.qk_rope_head_dim}));
  ASSIGN(model->embedding_, loader.table("model.embed_tokens.weight", config.vocab_size, config.hidden_size));
  model->unread_bytes_ += model->cos_sin_.bytes();
  model->embedding_bytes_ = model->embedding_.bytes();
  for (i64 i = 0; i < config.layers; ++i) {
    ASSIGN(auto layer, model->load_layer(loader, i, options));
    model->layers_.push_back(std::move(layer));
  }
  ASSIGN(model->norm_, loader.vector_f32("model.norm.weight", config.hidden_size));
  ASSIGN(model->head_, loader.linear(config.tie_word_embeddings ? "model.embed_tokens" : "lm_head",
                                     config.vocab_size, config.hidden_size));
  model->weight_bytes_ = loader.weight_bytes();

  for (i64 i = config.layers; i < config.layers + config.mtp_layers; ++i) {
    const std::string base = fmt::format("model.layers.{}.", i);
    if (!loader.has(base + "eh_proj.weight")) break;  // converted checkpoints often leave the MTP layers out
    DeepseekMtp mtp;
    ASSIGN(mtp.enorm, loader.vector_f32(base + "enorm.weight", config.hidden_size));
    ASSIGN(mtp.hnorm, loader.vector_f32(base + "hnorm.weight", config.hidden_size));
    ASSIGN(mtp.head_norm, loader.vector_f32(base + "shared_head.norm.weight", config.hidden_size));
    ASSIGN(mtp.eh_proj, loader.linear(base + "eh_proj", config.hidden_size, 2 * config.hidden_size));
    ASSIGN(mtp.layer, model->load_layer(loader, i, options));
    model->mtp_.push_back(std::move(mtp));
  }
  model->buffers_ = loader.take_buffers();
  return model;
}

Status DeepseekV3::run_layer(const layers::Context& c, const DeepseekLayer& layer, const layers::Batch& batch,
                             const KvCacheLayer& cache, const View& x) const {
  ArenaScope scope(c.arena);
  const float eps = static_cast<float>(config_.rms_norm_eps);
  ASSIGN(View h, layers::rms_norm(c, x, layer.input_norm, eps));
  ASSIGN(View attended, layers::mla(c, layer.attention, batch, cache, h));
  TRY(c.ops.add({.x = x, .y = attended}, c.stream));
  ASSIGN(View g, layers::rms_norm(c, x, layer.post_attention_norm, eps));
  View out;
  if (layer.dense) {
    ASSIGN(out, layers::mlp(c, layer.mlp, g));
  } else {
    ASSIGN(out, layers::moe(c, layer.moe, g));
  }
  return c.ops.add({.x = x, .y = out}, c.stream);
}

Result<View> DeepseekV3::forward(const layers::Context& c, const layers::Batch& batch,
                                 std::span<const KvCacheLayer> cache) const {
  ASSIGN(View x, c.take({batch.rows(), config_.hidden_size}));
  TRY(c.ops.embedding({.ids = batch.tokens, .table = embedding_, .out = x}, c.stream));
  for (std::size_t i = 0; i < layers_.size(); ++i) TRY(run_layer(c, layers_[i], batch, cache[i], x));
  return head(c, batch, x, norm_, head_);
}

}  // namespace trireme::models
