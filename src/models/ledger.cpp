#include "models/ledger.h"

namespace trireme::models {
namespace {

using Use = WeightGroup::Use;

class Builder {
 public:
  Builder(const ModelConfig& config, const Backend& backend)
      : c_(config), dequantised_(backend.dequantised()), narrow_(backend.act() == DType::kBF16) {
    dense_ = config.torch_dtype == "float32"   ? DType::kF32
             : config.torch_dtype == "float16" ? DType::kF16
                                               : DType::kBF16;
    quantised_ = config.fp8 ? DType::kF8E4M3 : dense_;
  }

  void vector(const std::string& part, const std::string& name, i64 n, i64 count) {
    add(part, name, n, 1, count, dense_, Use::kVector);
  }
  void quantised(const std::string& part, const std::string& name, i64 n, i64 k, i64 count,
                 Use use = Use::kMatrix) {
    add(part, name, n, k, count, quantised_, use);
  }
  void dense(const std::string& part, const std::string& name, i64 n, i64 k, i64 count,
             Use use = Use::kMatrix) {
    add(part, name, n, k, count, dense_, use);
  }
  void add(const std::string& part, const std::string& name, i64 n, i64 k, i64 count, DType stored, Use use) {
    if (n > 0 && k > 0 && count > 0) groups.push_back({part, name, n, k, count, stored, use});
  }

  void attention(const std::string& part, i64 layers, Use use) {
    if (c_.architecture != Architecture::kDeepseekV3) {
      quantised(part, "q_proj", c_.heads * c_.head_dim, c_.hidden_size, layers, use);
      quantised(part, "k_proj, v_proj", c_.kv_heads * c_.head_dim, c_.hidden_size, 2 * layers, use);
      quantised(part, "o_proj", c_.hidden_size, c_.heads * c_.head_dim, layers, use);
      if (c_.attention_bias) {
        vector(part, "biases", c_.heads * c_.head_dim + 2 * c_.kv_heads * c_.head_dim + c_.hidden_size,
               layers);
      }
      return;
    }
    const auto& m = c_.mla;
    const i64 q_in = m.q_lora_rank > 0 ? m.q_lora_rank : c_.hidden_size;
    quantised(part, "q_a_proj", m.q_lora_rank, c_.hidden_size, layers, use);
    quantised(part, "q_b_proj", c_.heads * m.qk_head_dim(), q_in, layers, use);
    quantised(part, "kv_a_proj", m.kv_lora_rank + m.qk_rope_head_dim, c_.hidden_size, layers, use);
    quantised(part, "kv_b_proj", c_.heads * (m.qk_nope_head_dim + m.v_head_dim), m.kv_lora_rank, layers, use);
    // The absorbed forms are made from kv_b_proj while loading; the checkpoint does not hold them.
    const bool in_blocks = m.qk_nope_head_dim % 128 == 0 && m.v_head_dim % 128 == 0;
    const DType type = quantised_ == DType::kF8E4M3 && (narrow_ || !in_blocks) ? dequantised_ : quantised_;
    add(part, "absorbed W_UK", m.kv_lora_rank, m.qk_nope_head_dim, c_.heads * layers, type, use);
    add(part, "absorbed W_UV", m.v_head_dim, m.kv_lora_rank, c_.heads * layers, type, use);
    quantised(part, "o_proj", c_.hidden_size, c_.heads * m.v_head_dim, layers, use);
    vector(part, "norms", m.q_lora_rank + m.kv_lora_rank, layers);
  }

  void experts(const std::string& prefix, i64 layers, bool future) {
    const auto& m = c_.moe;
    add(prefix + "router", "gate", m.experts, c_.hidden_size, layers, narrow_ ? dense_ : DType::kF32,
        future ? Use::kFuture : Use::kMatrix);
    const Use use = future ? Use::kFuture : Use::kExpert;
    quantised(prefix + "routed experts", "gate_up", 2 * m.intermediate_size, c_.hidden_size,
              m.experts * layers, use);
    quantised(prefix + "routed experts", "down", c_.hidden_size, m.intermediate_size, m.experts * layers,
              use);
    if (m.sigmoid) vector(prefix + "router", "e_score_correction_bias", m.experts, layers);
    const i64 shared = m.shared_experts * m.intermediate_size;
    quantised(prefix + "shared expert", "gate_up", 2 * shared, c_.hidden_size, layers,
              future ? Use::kFuture : Use::kMatrix);
    quantised(prefix + "shared expert", "down", c_.hidden_size, shared, layers,
              future ? Use::kFuture : Use::kMatrix);
  }

  std::vector<WeightGroup> groups;

 private:
  const ModelConfig& c_;
  DType dense_, quantised_, dequantised_;
  bool narrow_;  // activations are BF16: routers stay as they are stored, absorbed matrices are taken out of
                 // FP8
};

}  // namespace

i64 WeightGroup::stored_bytes() const {
  const i64 scales = stored == DType::kF8E4M3 ? ceil_div(n, 128) * ceil_div(k, 128) * 4 : 0;
  return (n * k * size_of(stored) + scales) * count;
}

std::vector<WeightGroup> weight_groups(const ModelConfig& c, i64 max_positions, const Backend& backend) {
  Builder b(c, backend);
  const bool mla = c.architecture == Architecture::kDeepseekV3;
  b.dense("embedding", "embed_tokens", c.vocab_size, c.hidden_size, 1, Use::kLookup);
  b.dense("head", c.tie_word_embeddings ? "embed_tokens, again" : "lm_head", c.vocab_size, c.hidden_size, 1);
  b.attention("attention", c.layers, Use::kMatrix);
  b.vector("norms", "layer norms", c.hidden_size, 2 * c.layers + 1);
  b.vector("rotary table", "cos, sin", max_positions * (mla ? c.mla.qk_rope_head_dim : c.head_dim), 1);
  const i64 dense_layers = c.moe.experts == 0 ? c.layers : c.moe.first_dense_layers;
  b.quantised("dense feed-forward", "gate_up", 2 * c.intermediate_size, c.hidden_size, dense_layers);
  b.quantised("dense feed-forward", "down", c.hidden_size, c.intermediate_size, dense_layers);
  if (c.moe.experts > 0) b.experts("", c.layers - dense_layers, false);
  if (c.mtp_layers > 0) {
    b.attention("MTP layer", c.mtp_layers, Use::kFuture);
    b.dense("MTP layer", "eh_proj", c.hidden_size, 2 * c.hidden_size, c.mtp_layers, Use::kFuture);
    b.vector("MTP layer", "norms", c.hidden_size, 5 * c.mtp_layers);
    if (c.moe.experts > 0) b.experts("MTP ", c.mtp_layers, true);
  }
  return std::move(b.groups);
}

i64 loaded_bytes(const WeightGroup& g, const PreparedBytes& prepared) {
  if (g.use == Use::kVector) return g.elements() * 4;
  if (g.use == Use::kLookup) return g.elements() * size_of(g.stored);
  return prepared(g.n, g.k, g.stored) * g.count;
}

double flops_per_token(const ModelConfig& c, const std::vector<WeightGroup>& groups) {
  double flops = 0;
  for (const auto& g : groups) {
    if (g.name.starts_with("absorbed")) continue;  // the same products as kv_b_proj, in another order
    if (g.use == Use::kMatrix) flops += 2.0 * static_cast<double>(g.elements());
    if (g.use == Use::kExpert)
      flops += 2.0 * static_cast<double>(g.elements()) * static_cast<double>(c.moe.top_k) /
               static_cast<double>(c.moe.experts);
  }
  return flops;
}

}  // namespace trireme::models
