#include "models/geometry.h"

#include <fmt/ranges.h>

#include <map>

namespace trireme::models {
namespace {

Json llama(i64 hidden, i64 layers, i64 heads, i64 kv_heads, i64 head_dim, i64 ff, bool tied, double factor) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 128256},
          {"hidden_size", hidden},
          {"num_hidden_layers", layers},
          {"num_attention_heads", heads},
          {"num_key_value_heads", kv_heads},
          {"head_dim", head_dim},
          {"intermediate_size", ff},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"rope_scaling",
           {{"rope_type", "llama3"},
            {"factor", factor},
            {"low_freq_factor", 1.0},
            {"high_freq_factor", 4.0},
            {"original_max_position_embeddings", 8192}}},
          {"max_position_embeddings", 131072},
          {"tie_word_embeddings", tied},
          {"torch_dtype", "bfloat16"},
          {"bos_token_id", 128000},
          {"eos_token_id", 128001}};
}

Json deepseek_v3() {
  return {{"architectures", {"DeepseekV3ForCausalLM"}},
          {"model_type", "deepseek_v3"},
          {"vocab_size", 129280},
          {"hidden_size", 7168},
          {"num_hidden_layers", 61},
          {"first_k_dense_replace", 3},
          {"num_attention_heads", 128},
          {"num_key_value_heads", 128},
          {"q_lora_rank", 1536},
          {"kv_lora_rank", 512},
          {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 128},
          {"intermediate_size", 18432},
          {"n_routed_experts", 256},
          {"num_experts_per_tok", 8},
          {"n_group", 8},
          {"topk_group", 4},
          {"n_shared_experts", 1},
          {"moe_intermediate_size", 2048},
          {"moe_layer_freq", 1},
          {"scoring_func", "sigmoid"},
          {"topk_method", "noaux_tc"},
          {"norm_topk_prob", true},
          {"routed_scaling_factor", 2.5},
          {"num_nextn_predict_layers", 1},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000.0},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 40.0},
            {"original_max_position_embeddings", 4096},
            {"beta_fast", 32.0},
            {"beta_slow", 1.0},
            {"mscale", 1.0},
            {"mscale_all_dim", 1.0}}},
          {"max_position_embeddings", 163840},
          {"attention_bias", false},
          {"tie_word_embeddings", false},
          {"torch_dtype", "bfloat16"},
          {"bos_token_id", 0},
          {"eos_token_id", 1},
          {"quantization_config",
           {{"quant_method", "fp8"},
            {"fmt", "e4m3"},
            {"activation_scheme", "dynamic"},
            {"weight_block_size", {128, 128}}}}};
}

Json mixtral_8x7b() {
  return {{"architectures", {"MixtralForCausalLM"}},
          {"model_type", "mixtral"},
          {"vocab_size", 32000},
          {"hidden_size", 4096},
          {"num_hidden_layers", 32},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 8},
          {"intermediate_size", 14336},
          {"num_local_experts", 8},
          {"num_experts_per_tok", 2},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 1000000.0},
          {"sliding_window", nullptr},
          {"max_position_embeddings", 32768},
          {"tie_word_embeddings", false},
          {"torch_dtype", "bfloat16"},
          {"bos_token_id", 1},
          {"eos_token_id", 2}};
}

const std::map<std::string, Json>& table() {
  static const std::map<std::string, Json> geometries = {
      {"deepseek-v3", deepseek_v3()},
      {"llama-1b", llama(2048, 16, 32, 8, 64, 8192, true, 32.0)},
      {"llama-8b", llama(4096, 32, 32, 8, 128, 14336, false, 8.0)},
      {"llama-70b", llama(8192, 80, 64, 8, 128, 28672, false, 8.0)},
      {"mixtral-8x7b", mixtral_8x7b()},
  };
  return geometries;
}

}  // namespace

std::vector<std::string> geometry_names() {
  std::vector<std::string> names;
  for (const auto& [name, json] : table()) names.push_back(name);
  return names;
}

Result<Json> geometry(const std::string& name) {
  const auto found = table().find(name);
  if (found != table().end()) return found->second;
  return fail(ErrorCode::kNotFound, "no geometry is called \"{}\"; there are {}", name,
              fmt::join(geometry_names(), ", "));
}

}  // namespace trireme::models
