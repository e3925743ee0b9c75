// config.json, checked once: what the models need to know, under Hugging Face's names. A key that changes the
// mathematics and is not understood here is refused by name, never ignored.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/types.h"

namespace trireme::models {

enum class Architecture : u8 { kDeepseekV3, kLlama, kMixtral };
const char* to_string(Architecture a);  // "DeepseekV3ForCausalLM", ...

struct RopeScaling {
  enum class Kind : u8 { kNone, kLinear, kDynamic, kLlama3, kYarn } kind = Kind::kNone;
  double factor = 1;
  i64 original_max_position_embeddings = 0;
  // llama3
  double low_freq_factor = 1, high_freq_factor = 4;
  // yarn
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;                   // the correction range is rounded outwards to whole pairs
  double mscale = 0, mscale_all_dim = 0;  // DeepSeek
  std::optional<double> attention_factor;
};

struct MlaConfig {
  i64 q_lora_rank = 0;  // 0: q_proj without a low-rank step (null in config.json)
  i64 kv_lora_rank = 512, qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128;
  i64 qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
};

struct MoeConfig {
  i64 experts = 0;  // n_routed_experts / num_local_experts; 0: a dense model
  i64 top_k = 0;    // num_experts_per_tok
  i64 groups = 1, top_groups = 1;
  i64 intermediate_size = 0;   // moe_intermediate_size; Mixtral: intermediate_size
  i64 shared_experts = 0;      // n_shared_experts
  i64 first_dense_layers = 0;  // first_k_dense_replace
  bool sigmoid = false;        // scoring_func == "sigmoid" (topk_method noaux_tc); else softmax
  bool normalise = true;       // norm_topk_prob
  double routed_scaling_factor = 1;
};

struct Fp8Config {  // quantization_config of method "fp8" with 128 x 128 blocks
  i64 block_n = 128, block_k = 128;
};

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::string architecture_name;
  i64 vocab_size = 0, hidden_size = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  i64 intermediate_size = 0;
  i64 max_position_embeddings = 0;
  double rms_norm_eps = 1e-6, rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false, mlp_bias = false;
  bool rope_interleave = true;  // DeepSeek: pairs (2i, 2i+1) as stored
  i64 sliding_window = 0;       // Mixtral/Mistral; 0: none
  i64 mtp_layers = 0;           // num_nextn_predict_layers
  std::string torch_dtype;      // as stored: "bfloat16", "float32", ...
  std::optional<Fp8Config> fp8;
  MlaConfig mla;  // kDeepseekV3
  MoeConfig moe;  // kDeepseekV3, kMixtral
  std::optional<i32> bos_token_id;
  std::vector<i32> eos_token_ids;
};

// `what` names the source in messages. kUnsupported names the architecture or key; kInvalidArgument a value
// that is of the wrong type, out of bounds (each dimension is bounded so that no product of them overflows)
// or at odds with another (heads % kv_heads, experts % groups, ...).
Result<ModelConfig> parse_config(const Json& json, const std::string& what);
// config.json of a folder (then generation_config.json for the end-of-sequence ids), or a bare config.json
// file.
Result<ModelConfig> load_config(const std::string& dir_or_file);

// Softmax scale of attention: 1/sqrt(qk head dim), times YaRN's mscale squared where the model has it
// (0.135234 for DeepSeek-V3).
double softmax_scale(const ModelConfig& c);

// Rotary tables, [positions, dim] float32: dim/2 cosines, then dim/2 sines a row. Follows transformers'
// rope_utils for every scaling kind, computed in double.
std::vector<float> rope_table(const ModelConfig& c, i64 positions);

}  // namespace trireme::models
