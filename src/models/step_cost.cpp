#include "models/step_cost.h"

#include <algorithm>
#include <cmath>

namespace trireme::models {
namespace {

class Sum {
 public:
  Sum(const StepShape& shape, bool fp8_weights) : s_(shape), fp8_(fp8_weights && shape.fp8) {}

  // Products of `rows` rows with `matrices` matrices [n, k] of which `read` are touched. Inputs and outputs
  // once.
  void product(const std::string& name, i64 layers, double rows, i64 n, i64 k, double matrices = 1,
               bool quantised = true) {
    const bool fp8 = fp8_ && quantised;
    const double width = fp8 ? 1 : 2, dn = static_cast<double>(n), dk = static_cast<double>(k);
    PartCost& p = part(name);
    p.count = std::max(p.count, layers);
    const double l = static_cast<double>(layers);
    p.bytes += l * (matrices * dn * dk * width + rows * dk * width + rows * dn * 2);
    (fp8 ? p.fp8_flops : p.flops) += l * 2 * rows * dn * dk;
  }
  // Passes over memory.
  void moved(const std::string& name, i64 layers, double bytes) {
    PartCost& p = part(name);
    p.count = std::max(p.count, layers);
    p.bytes += static_cast<double>(layers) * bytes;
  }
  void work(const std::string& name, i64 layers, double bytes, double flops, double fp8_flops = 0) {
    moved(name, layers, bytes);
    part(name).flops += static_cast<double>(layers) * flops;
    part(name).fp8_flops += static_cast<double>(layers) * fp8_flops;
  }
  bool fp8() const { return fp8_; }
  std::vector<PartCost> parts;

 private:
  PartCost& part(const std::string& name) {
    for (auto& p : parts)
      if (p.name == name) return p;
    parts.push_back({.name = name});
    return parts.back();
  }
  const StepShape& s_;
  bool fp8_;
};

void mla(Sum& sum, const ModelConfig& c, const StepShape& s) {
  const auto& m = c.mla;
  const double t = static_cast<double>(s.tokens), heads = static_cast<double>(c.heads),
               context = static_cast<double>(s.context), seqs = static_cast<double>(s.sequences);
  const i64 layers = c.layers, qk = m.qk_nope_head_dim + m.qk_rope_head_dim, latent = m.kv_lora_rank;
  const double kv = static_cast<double>(s.kv_token_bytes);
  sum.product("q_a, kv_a", layers, t, m.q_lora_rank + latent + m.qk_rope_head_dim, c.hidden_size);
  sum.product("q_b", layers, t, c.heads * qk, m.q_lora_rank > 0 ? m.q_lora_rank : c.hidden_size);
  // The query is read and written only where it turns.
  sum.moved("rope, latent norm, append", layers,
            t * (4 * heads * static_cast<double>(m.qk_rope_head_dim) +
                 2 * static_cast<double>(latent + m.qk_rope_head_dim) + kv));
  const double dl = static_cast<double>(latent), rope = static_cast<double>(m.qk_rope_head_dim);
  if (s.absorbed) {
    sum.product("absorb W_UK", layers, t * heads, latent, m.qk_nope_head_dim, heads, false);
    const double pairs = 2 * t * heads * context, q_bytes = s.fp8_cache ? dl + 2 * rope : 2 * (dl + rope);
    sum.work("attention (MLA, absorbed)", layers, seqs * context * kv + t * heads * (q_bytes + 2 * dl),
             pairs * (s.fp8_cache ? rope : 2 * dl + rope), pairs * (s.fp8_cache ? 2 * dl : 0));
    sum.product("absorb W_UV", layers, t * heads, m.v_head_dim, latent, heads, false);
  } else {
    const i64 width = c.heads * (m.qk_nope_head_dim + m.v_head_dim);
    sum.product("kv_b", layers, seqs * context, width, latent);
    // Half of a square of scores is masked.
    const double pairs = t * heads * context, all = static_cast<double>(qk + m.v_head_dim);
    sum.work("attention (MLA, expanded)", layers, 2 * seqs * context * static_cast<double>(width),
             pairs * (s.fp8_expanded ? rope : all), pairs * (s.fp8_expanded ? all - rope : 0));
  }
  sum.product("o_proj", layers, t, c.hidden_size, c.heads * m.v_head_dim);
}

void gqa(Sum& sum, const ModelConfig& c, const StepShape& s) {
  const double t = static_cast<double>(s.tokens), context = static_cast<double>(s.context);
  sum.product("q, k, v", c.layers, t, (c.heads + 2 * c.kv_heads) * c.head_dim, c.hidden_size);
  sum.moved("rope, append", c.layers,
            t * (4.0 * static_cast<double>((c.heads + c.kv_heads) * c.head_dim) +
                 static_cast<double>(s.kv_token_bytes)));
  const double share = s.absorbed ? 1 : 0.5;  // of the scores that is not masked
  sum.work("attention (GQA)", c.layers,
           static_cast<double>(s.sequences) * context * static_cast<double>(s.kv_token_bytes),
           4 * share * t * context * static_cast<double>(c.heads * c.head_dim));
  sum.product("o_proj", c.layers, t, c.hidden_size, c.heads * c.head_dim);
}

void moe(Sum& sum, const ModelConfig& c, const StepShape& s, i64 layers) {
  const auto& m = c.moe;
  const double t = static_cast<double>(s.tokens), pairs = t * static_cast<double>(m.top_k),
               hidden = static_cast<double>(c.hidden_size);
  const i64 local = ceil_div(m.experts, std::max<i64>(1, s.ep_slice));
  // Experts that at least one pair chooses, if choices were uniform.
  const double here = static_cast<double>(local), read = here * (1 - std::pow(1 - 1 / here, pairs));
  const double width = sum.fp8() ? 1 : 2;
  sum.product("router", layers, t, m.experts, c.hidden_size, 1, false);
  sum.moved("permute", layers, (t + pairs) * hidden * width);
  sum.product("experts gate+up", layers, pairs, 2 * m.intermediate_size, c.hidden_size, read);
  sum.moved("swiglu", layers, pairs * static_cast<double>(m.intermediate_size) * (4 + width));
  sum.product("experts down", layers, pairs, c.hidden_size, m.intermediate_size, read);
  sum.moved("combine", layers, (pairs + 2 * t) * hidden * 2);
  if (m.shared_experts == 0) return;
  const i64 shared = m.shared_experts * m.intermediate_size;
  sum.product("dense gate+up", layers, t, 2 * shared, c.hidden_size);
  sum.moved("swiglu", layers, t * static_cast<double>(shared) * (4 + width));
  sum.product("dense down", layers, t, c.hidden_size, shared);
}

}  // namespace

std::vector<PartCost> step_cost(const ModelConfig& c, const StepShape& s) {
  Sum sum(s, c.fp8.has_value());
  const double t = static_cast<double>(s.tokens), hidden = static_cast<double>(c.hidden_size);
  const double width = sum.fp8() ? 1 : 2;
  sum.moved("embedding", 1, 4 * t * hidden);
  // Residual read and written, the branch read, the norm written.
  sum.moved("norm", 2 * c.layers, t * hidden * (6 + width));
  if (c.architecture == Architecture::kDeepseekV3)
    mla(sum, c, s);
  else
    gqa(sum, c, s);
  const i64 dense = c.moe.experts == 0 ? c.layers : c.moe.first_dense_layers;
  if (dense > 0) {
    sum.product("dense gate+up", dense, t, 2 * c.intermediate_size, c.hidden_size);
    sum.moved("swiglu", dense, t * static_cast<double>(c.intermediate_size) * (4 + width));
    sum.product("dense down", dense, t, c.hidden_size, c.intermediate_size);
  }
  if (c.moe.experts > 0) moe(sum, c, s, c.layers - dense);
  sum.product("head", 1, static_cast<double>(s.sampled), c.vocab_size, c.hidden_size, 1, false);
  return std::move(sum.parts);
}

double floor_seconds(const PartCost& p, const ChipRates& chip) {
  const auto at = [](double flops, double rate) { return rate > 0 ? flops / rate : 0.0; };
  return std::max(p.bytes / chip.bandwidth, at(p.flops, chip.bf16_flops) + at(p.fp8_flops, chip.fp8_flops));
}

}  // namespace trireme::models
