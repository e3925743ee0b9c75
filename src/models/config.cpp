#include "models/config.h"

#include <algorithm>
#include <filesystem>

#include "formats/mapped_file.h"
#include "models/config_keys.h"
#include "models/config_rope.h"

namespace trireme::models {
namespace {

// Bounds of single dimensions. The largest product of one tensor's dimensions, experts * hidden *
// intermediate * 4 bytes, stays below 2^60.
constexpr i64 kMaxHidden = i64{1} << 20, kMaxIntermediate = i64{1} << 22, kMaxLayers = 1024;
constexpr i64 kMaxVocab = i64{1} << 22, kMaxHeads = 4096, kMaxHeadDim = 8192, kMaxExperts = 4096;
constexpr i64 kMaxPositions = i64{1} << 26, kMaxRank = i64{1} << 16;

struct ArchitectureName {
  std::string_view name;
  Architecture architecture;
};
constexpr ArchitectureName kArchitectures[] = {
    {"DeepseekV3ForCausalLM", Architecture::kDeepseekV3},
    {"LlamaForCausalLM", Architecture::kLlama},
    {"MixtralForCausalLM", Architecture::kMixtral},
};

// Keys with which related models change their mathematics. Each is fine only when it is absent, null, false
// or has the value that changes nothing.
struct ForeignKey {
  const char* key;
  double neutral;
};
constexpr ForeignKey kForeignKeys[] = {
    {"partial_rotary_factor", 1},
    {"final_logit_softcapping", 0},
    {"attn_logit_softcapping", 0},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"attention_multiplier", -1},
    {"query_pre_attn_scalar", -1},
    {"use_qk_norm", 0},
    {"qk_norm", 0},
    {"qk_layernorm", 0},
    {"clip_qkv", 0},
    {"alibi", 0},
    {"use_alibi", 0},
    {"index_topk", 0},
    {"no_rope_layers", -1},
    {"attention_chunk_size", 0},
    {"scale_emb", 1},
    {"scale_depth", -1},
    {"dim_model_base", -1},
    {"use_parallel_residual", 0},
    {"compression_config", -1},
    {"attn_output_gate", 0},
    {"num_zero_experts", 0},
    {"zero_expert_num", 0},
    {"attention_sink", 0},
};

void refuse_foreign_keys(Keys& keys) {
  for (const auto& [key, neutral] : kForeignKeys) {
    const Json* v = keys.find(key);
    if (!v || (v->is_boolean() && !v->get<bool>())) continue;
    if (v->is_number() && v->get<double>() == neutral) continue;
    keys.unsupported(key, "remove it only if the model was trained without it");
  }
  if (const Json* types = keys.find("layer_types")) {
    const bool plain = types->is_array() && std::all_of(types->begin(), types->end(),
                                                        [](const Json& t) { return t == "full_attention"; });
    if (!plain) keys.unsupported("layer_types", "every layer must be \"full_attention\"");
  }
}

Status parse_architecture(Keys& keys, ModelConfig& c) {
  const Json* names = keys.find("architectures");
  if (!names || !names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
    keys.wrong("architectures", "a list of one name");
    return keys.status();
  }
  c.architecture_name = (*names)[0].get<std::string>();
  for (const auto& known : kArchitectures) {
    if (known.name != c.architecture_name) continue;
    c.architecture = known.architecture;
    return {};
  }
  return fail(ErrorCode::kUnsupported,
              "{}: the architecture {} is not supported; DeepseekV3ForCausalLM, LlamaForCausalLM and "
              "MixtralForCausalLM are",
              keys.what(), one_line(c.architecture_name, 64));
}

void parse_token_ids(Keys& keys, ModelConfig& c) {
  const auto fits = [&](const Json& id) {
    return id.is_number_integer() && id.get<i64>() >= 0 && id.get<i64>() < c.vocab_size;
  };
  if (const Json* bos = keys.find("bos_token_id")) {
    if (fits(*bos)) {
      c.bos_token_id = bos->get<i32>();
    } else {
      keys.wrong("bos_token_id", "a token of the vocabulary");
    }
  }
  const Json* eos = keys.find("eos_token_id");
  if (!eos) return;
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  c.eos_token_ids.clear();
  if (list.size() > 64 || !std::all_of(list.begin(), list.end(), fits)) {
    keys.wrong("eos_token_id", "a token of the vocabulary, or a list of at most 64");
    return;
  }
  for (const auto& id : list) c.eos_token_ids.push_back(id.get<i32>());
}

void parse_common(Keys& keys, ModelConfig& c) {
  c.vocab_size = keys.integer("vocab_size", 1, kMaxVocab);
  c.hidden_size = keys.integer("hidden_size", 1, kMaxHidden);
  c.layers = keys.integer("num_hidden_layers", 1, kMaxLayers);
  c.heads = keys.integer("num_attention_heads", 1, kMaxHeads);
  c.intermediate_size = keys.integer("intermediate_size", 1, kMaxIntermediate);
  c.max_position_embeddings = keys.integer("max_position_embeddings", 1, kMaxPositions);
  c.rms_norm_eps = keys.real("rms_norm_eps", 0, 1);
  c.tie_word_embeddings = keys.flag("tie_word_embeddings", false);
  if (keys.text("hidden_act", "silu") != "silu") keys.unsupported("hidden_act", "silu is");
  const char* dtype_key = keys.find("dtype") ? "dtype" : "torch_dtype";
  c.torch_dtype = keys.text(dtype_key, "");
  if (c.torch_dtype != "" && c.torch_dtype != "bfloat16" && c.torch_dtype != "float16" &&
      c.torch_dtype != "float32") {
    keys.unsupported(dtype_key, "bfloat16, float16 and float32 are");
  }
  parse_rope(keys, c);
  parse_token_ids(keys, c);
}

void parse_quantization(Keys& keys, ModelConfig& c) {
  const Json* json = keys.find("quantization_config");
  if (!json) return;
  if (!json->is_object()) {
    keys.wrong("quantization_config", "an object");
    return;
  }
  Keys quant(*json, keys.what() + ": \"quantization_config\"");
  if (quant.text("quant_method", "") != "fp8") quant.unsupported("quant_method", "fp8 is");
  if (quant.text("fmt", "e4m3") != "e4m3") quant.unsupported("fmt", "e4m3 is");
  if (quant.text("activation_scheme", "dynamic") != "dynamic") {
    quant.unsupported("activation_scheme", "dynamic is");
  }
  const Fp8Config fp8;
  const Json* block = quant.find("weight_block_size");
  if (!block || *block != Json::array({fp8.block_n, fp8.block_k})) {
    quant.unsupported("weight_block_size", "[128, 128] is");
  }
  // ue8m0 scales are powers of two that are stored as float32 all the same.
  const auto scale_fmt = quant.text("scale_fmt", "float");
  if (scale_fmt != "float" && scale_fmt != "ue8m0") quant.unsupported("scale_fmt", "float and ue8m0 are");
  if (const auto status = quant.status(); !status) keys.set(status.error().code, status.error().message);
  c.fp8 = fp8;
}

void parse_gqa(Keys& keys, ModelConfig& c, std::optional<i64> default_kv_heads) {
  c.kv_heads = keys.integer("num_key_value_heads", 1, kMaxHeads, default_kv_heads);
  if (c.heads % c.kv_heads != 0) {
    keys.at_odds(fmt::format("\"num_attention_heads\" {} is not a multiple of \"num_key_value_heads\" {}",
                             c.heads, c.kv_heads));
  }
  if (!keys.find("head_dim") && c.hidden_size % c.heads != 0) {
    keys.at_odds(
        fmt::format("\"hidden_size\" {} is not a multiple of \"num_attention_heads\" {}, and there is no "
                    "\"head_dim\"",
                    c.hidden_size, c.heads));
  }
  c.head_dim = keys.integer("head_dim", 1, kMaxHeadDim, c.hidden_size / c.heads);
  if (c.head_dim % 2 != 0 || c.head_dim > kMaxHeadDim) {
    keys.at_odds(fmt::format("the head dimension {} must be even and at most {}", c.head_dim, kMaxHeadDim));
  }
}

void refuse_sliding_window(Keys& keys) {
  if (keys.find("sliding_window") && keys.flag("use_sliding_window", true)) {
    keys.unsupported("sliding_window", "only Mixtral has one");
  }
}

void parse_llama(Keys& keys, ModelConfig& c) {
  parse_gqa(keys, c, c.heads);
  c.rope_interleave = false;
  c.attention_bias = keys.flag("attention_bias", false);
  c.mlp_bias = keys.flag("mlp_bias", false);
  refuse_sliding_window(keys);
}

void parse_mixtral(Keys& keys, ModelConfig& c) {
  parse_gqa(keys, c, {});
  c.rope_interleave = false;
  if (keys.flag("attention_bias", false)) keys.unsupported("attention_bias", "Mixtral has none");
  c.sliding_window = keys.integer("sliding_window", 1, kMaxPositions, 0);
  c.moe.experts = keys.integer("num_local_experts", 1, kMaxExperts);
  c.moe.top_k = keys.integer("num_experts_per_tok", 1, c.moe.experts);
  c.moe.intermediate_size = c.intermediate_size;
}

void parse_mla(Keys& keys, ModelConfig& c) {
  if (!keys.json().contains("q_lora_rank")) {
    keys.at_odds("the key \"q_lora_rank\" is missing (null means a plain q_proj)");
  }
  c.mla.q_lora_rank = keys.integer("q_lora_rank", 1, kMaxRank, 0);
  c.mla.kv_lora_rank = keys.integer("kv_lora_rank", 1, kMaxRank);
  c.mla.qk_nope_head_dim = keys.integer("qk_nope_head_dim", 1, kMaxHeadDim);
  c.mla.qk_rope_head_dim = keys.integer("qk_rope_head_dim", 2, kMaxHeadDim);
  c.mla.v_head_dim = keys.integer("v_head_dim", 1, kMaxHeadDim);
  if (c.mla.qk_rope_head_dim % 2 != 0) keys.wrong("qk_rope_head_dim", "even");
  c.head_dim = c.mla.qk_head_dim();
  c.kv_heads = keys.integer("num_key_value_heads", 1, kMaxHeads, c.heads);
  if (c.kv_heads != c.heads) {
    keys.at_odds("\"num_key_value_heads\" must equal \"num_attention_heads\" in this architecture");
  }
}

void parse_deepseek_moe(Keys& keys, ModelConfig& c) {
  auto& moe = c.moe;
  moe.experts = keys.integer("n_routed_experts", 1, kMaxExperts);
  moe.groups = keys.integer("n_group", 1, moe.experts);
  moe.top_groups = keys.integer("topk_group", 1, moe.groups);
  moe.top_k = keys.integer("num_experts_per_tok", 1, moe.experts);
  moe.intermediate_size = keys.integer("moe_intermediate_size", 1, kMaxIntermediate);
  moe.shared_experts = keys.integer("n_shared_experts", 0, 64, 0);
  moe.first_dense_layers = keys.integer("first_k_dense_replace", 0, c.layers);
  moe.normalise = keys.flag("norm_topk_prob", true);
  moe.routed_scaling_factor = keys.real("routed_scaling_factor", 1e-6, 1e6);
  moe.sigmoid = true;
  if (keys.text("scoring_func", "sigmoid") != "sigmoid") keys.unsupported("scoring_func", "sigmoid is");
  if (keys.text("topk_method", "noaux_tc") != "noaux_tc") keys.unsupported("topk_method", "noaux_tc is");
  if (keys.integer("moe_layer_freq", 1, kMaxLayers, 1) != 1) keys.unsupported("moe_layer_freq", "1 is");
  if (!keys.ok()) return;
  if (moe.experts % moe.groups != 0 || moe.experts / moe.groups < 2) {
    keys.at_odds(fmt::format("\"n_routed_experts\" {} must make \"n_group\" {} equal groups of two or more",
                             moe.experts, moe.groups));
  } else if (moe.top_k > moe.experts / moe.groups * moe.top_groups) {
    keys.at_odds(fmt::format("\"num_experts_per_tok\" {} is more than \"topk_group\" {} groups have",
                             moe.top_k, moe.top_groups));
  }
}

void parse_deepseek(Keys& keys, ModelConfig& c) {
  parse_mla(keys, c);
  parse_deepseek_moe(keys, c);
  c.rope_interleave = keys.flag("rope_interleave", true);
  c.attention_bias = keys.flag("attention_bias", false);
  c.mtp_layers = keys.integer("num_nextn_predict_layers", 0, 64, 0);
  refuse_sliding_window(keys);
}

Result<Json> read_config(const std::string& path) {
  constexpr u64 kMaxBytes = 4u << 20;
  ASSIGN(const auto file, formats::MappedFile::open(path, kMaxBytes));
  return parse_json(file.text(), path, {.max_bytes = kMaxBytes, .max_depth = 16});
}

}  // namespace

const char* to_string(Architecture a) {
  for (const auto& known : kArchitectures) {
    if (known.architecture == a) return known.name.data();
  }
  return "?";
}

Result<ModelConfig> parse_config(const Json& json, const std::string& what) {
  if (!json.is_object()) return invalid("{}: must be a JSON object", what);
  Keys keys(json, what);
  ModelConfig c;
  TRY(parse_architecture(keys, c));
  parse_common(keys, c);
  if (keys.ok()) {
    switch (c.architecture) {
      case Architecture::kDeepseekV3:
        parse_deepseek(keys, c);
        break;
      case Architecture::kLlama:
        parse_llama(keys, c);
        break;
      case Architecture::kMixtral:
        parse_mixtral(keys, c);
        break;
    }
  }
  parse_quantization(keys, c);
  refuse_foreign_keys(keys);
  TRY(keys.status());
  return c;
}

Result<ModelConfig> load_config(const std::string& dir_or_file) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(dir_or_file, ignored)) {
    ASSIGN(const auto json, read_config(dir_or_file));
    return parse_config(json, dir_or_file);
  }
  const auto path = (fs::path(dir_or_file) / "config.json").string();
  ASSIGN(const auto json, read_config(path));
  ASSIGN(auto config, parse_config(json, path));
  const auto generation = fs::path(dir_or_file) / "generation_config.json";
  if (!fs::exists(generation, ignored)) return config;
  ASSIGN(const auto generation_json, read_config(generation.string()));
  if (!generation_json.is_object()) return invalid("{}: must be a JSON object", generation.string());
  Keys keys(generation_json, generation.string());
  parse_token_ids(keys, config);
  TRY(keys.status());
  return config;
}

}  // namespace trireme::models
