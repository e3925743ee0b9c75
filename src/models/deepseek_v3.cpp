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
  a.q_lora = c.mla.q_lora_rank;
  Loader::Parts from_hidden = {{attn + "kv_a_proj_with_mqa", a.latent + a.rope}};
  if (a.q_lora > 0) {
    from_hidden.insert(from_hidden.begin(), {attn + "q_a_proj", a.q_lora});
    ASSIGN(a.q_a_norm, loader.vector_f32(attn + "q_a_layernorm.weight", a.q_lora));
    ASSIGN(a.q_b, loader.linear(attn + "q_b_proj", heads * c.mla.qk_head_dim(), a.q_lora));
  } else {
    ASSIGN(a.q_b, loader.linear(attn + "q_proj", heads * c.mla.qk_head_dim(), c.hidden_size));
  }
  ASSIGN(a.a, loader.stacked(from_hidden, c.hidden_size, c.attention_bias));
  std::vector<float> kv_a_norm;
  ASSIGN(a.kv_a_norm, loader.vector_f32(attn + "kv_a_layernorm.weight", a.latent, &kv_a_norm));
  a.latent_scale = kv_latent_scale(kv_a_norm);
  const i64 kv_rows = heads * (a.nope + a.v);
  ASSIGN(a.kv_b, loader.linear(attn + "kv_b_proj", kv_rows, a.latent));
  if (index < c.layers) unread_bytes_ += a.kv_b.stored_bytes;  // a decode step is absorbed
  ASSIGN(a.w_uk, loader.heads(attn + "kv_b_proj", kv_rows, a.latent, heads, a.nope + a.v, 0, a.nope, true));
  ASSIGN(a.w_uv,
         loader.heads(attn + "kv_b_proj", kv_rows, a.latent, heads, a.nope + a.v, a.nope, a.v, false));
  if (options.fp8_prefill_attention) {
    const auto scale_of = [&](i64 begin, i64 n) {
      return loader.product_scale(attn + "kv_b_proj", kv_rows, heads, a.nope + a.v, begin, n, kv_a_norm);
    };
    ASSIGN(a.k_scale, scale_of(0, a.nope));
    ASSIGN(a.v_scale, scale_of(a.nope, a.v));
  }
  ASSIGN(a.o, loader.linear(attn + "o_proj", c.hidden_size, heads * a.v, c.attention_bias));

  const auto mlp = [&](const std::string& name, i64 width) -> Result<layers::Mlp> {
    layers::Mlp m;
    ASSIGN(m.gate_up,
           loader.stacked({{name + "gate_proj", width}, {name + "up_proj", width}}, c.hidden_size));
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
  const i64 local = options.ep_slice > 1 ? ceil_div(c.moe.experts, options.ep_slice) : c.moe.experts;
  if (local < c.moe.experts) m.place = place_;
  const i64 before = loader.weight_bytes();
  const auto expert = [&](i64 e, const char* part) { return fmt::format("{}experts.{}.{}", ff, e, part); };
  const i64 width = c.moe.intermediate_size;
  ASSIGN(m.gate_up, loader.group(local, c.hidden_size, [&](i64 e) {
    return Loader::Parts{{expert(e, "gate_proj"), width}, {expert(e, "up_proj"), width}};
  }));
  ASSIGN(m.down, loader.group(local, width, [&](i64 e) {
    return Loader::Parts{{expert(e, "down_proj"), c.hidden_size}};
  }));
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
  if (options.ep_slice > 1 && config.moe.experts > 0) {
    // Every expert's tokens go to one of those that are here, so that each gets what it would get from the
    // whole group: as many tokens, spread as the router spreads them.
    const i64 local = ceil_div(config.moe.experts, options.ep_slice);
    std::vector<i32> place(static_cast<std::size_t>(config.moe.experts));
    for (std::size_t e = 0; e < place.size(); ++e) place[e] = static_cast<i32>(static_cast<i64>(e) % local);
    ASSIGN(const ConstView table, loader.upload_i32(place, {config.moe.experts}));
    model->place_ = {table.as<i32>(), place.size()};
  }
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
  model->loaded_bytes_ = loader.weight_bytes();
  model->buffers_ = loader.take_buffers();
  return model;
}

Status DeepseekV3::run_layer(const layers::Context& c, const DeepseekLayer& layer, const layers::Batch& batch,
                             const KvCacheLayer& cache, const View& x, const ConstView& before,
                             const View& branch) const {
  ArenaScope scope(c.arena);
  const float eps = static_cast<float>(config_.rms_norm_eps);
  c.mark("norm");
  ASSIGN(auto h, layers::add_rms_norm(c, x, before, layer.input_norm, eps, layer.attention.wants()));
  TRY(layers::mla(c, layer.attention, batch, cache, h, branch));
  c.mark("norm");
  ASSIGN(auto g, layers::add_rms_norm(c, x, branch, layer.post_attention_norm, eps,
                                      layer.dense ? layer.mlp.wants() : layer.moe.wants()));
  return layer.dense ? layers::mlp(c, layer.mlp, g, branch) : layers::moe(c, layer.moe, g, branch);
}

Result<View> DeepseekV3::forward(const layers::Context& c, const layers::Batch& given,
                                 std::span<const KvCacheLayer> cache) const {
  layers::Batch batch = given;
  const int heads = static_cast<int>(config_.heads);
  const KvLayout& layout = cache[0].layout;
  if (layers_[0].attention.absorb_all) {
    TRY(layers::plan_attention(c, batch.all, layout, batch.rows(), heads));
  } else {
    TRY(layers::plan_attention(c, batch.absorbed, layout, batch.absorbed_rows, heads));
  }
  ASSIGN(View x, c.take({batch.rows(), config_.hidden_size}));
  ASSIGN(View branch, c.take({batch.rows(), config_.hidden_size}));  // what is still to be added to x
  c.mark("embedding");
  TRY(c.ops.embedding({.ids = batch.tokens, .table = embedding_, .out = x}, c.stream));
  for (std::size_t i = 0; i < layers_.size(); ++i)
    TRY(run_layer(c, layers_[i], batch, cache[i], x, i == 0 ? ConstView{} : branch, branch));
  return head(c, batch, x, branch, norm_, head_);
}

}  // namespace trireme::models
