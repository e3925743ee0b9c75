#include "models/config.h"

#include "models/geometry.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

namespace trireme::models {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// As published with deepseek-ai/DeepSeek-V3.
constexpr const char* kDeepseekV3 = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
  "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu",
  "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
  "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
  "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
  "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                          "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
  "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.33.1",
  "use_cache": true, "v_head_dim": 128, "vocab_size": 129280})";

// As published with meta-llama/Llama-3.1-8B-Instruct.
constexpr const char* kLlama31 = R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
  "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
  "pretraining_tp": 1, "rms_norm_eps": 1e-05,
  "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "transformers_version": "4.42.3", "use_cache": true, "vocab_size": 128256})";

// As published with mistralai/Mixtral-8x7B-v0.1.
constexpr const char* kMixtral = R"({
  "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
  "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
  "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
  "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
  "output_router_logits": false, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
  "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000})";

// A published configuration with some keys changed (a JSON merge patch: null removes a key).
Json changed(const char* base, const char* patch = "{}") {
  Json json = Json::parse(base);
  json.merge_patch(Json::parse(patch));
  return json;
}
ModelConfig parsed(const Json& json) {
  auto config = parse_config(json, "config.json");
  EXPECT_TRUE(config) << config.error().message;
  return config ? *config : ModelConfig{};
}

TEST(Config, DeepseekV3AsPublished) {
  const auto c = parsed(changed(kDeepseekV3));
  EXPECT_EQ(c.architecture, Architecture::kDeepseekV3);
  EXPECT_STREQ(to_string(c.architecture), "DeepseekV3ForCausalLM");
  EXPECT_EQ(c.vocab_size, 129280);
  EXPECT_EQ(c.layers, 61);
  EXPECT_EQ(c.heads, 128);
  EXPECT_EQ(c.mla.q_lora_rank, 1536);
  EXPECT_EQ(c.mla.qk_head_dim(), 192);
  EXPECT_EQ(c.moe.experts, 256);
  EXPECT_EQ(c.moe.groups, 8);
  EXPECT_EQ(c.moe.top_groups, 4);
  EXPECT_EQ(c.moe.top_k, 8);
  EXPECT_EQ(c.moe.first_dense_layers, 3);
  EXPECT_EQ(c.moe.intermediate_size, 2048);
  EXPECT_TRUE(c.moe.sigmoid && c.moe.normalise && c.rope_interleave);
  EXPECT_EQ(c.moe.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.mtp_layers, 1);
  EXPECT_TRUE(c.fp8);
  EXPECT_EQ(c.rope_scaling.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(1));
  EXPECT_NEAR(softmax_scale(c), 0.135234, 5e-7);
}

TEST(Config, Llama31AsPublished) {
  const auto c = parsed(changed(kLlama31));
  EXPECT_EQ(c.architecture, Architecture::kLlama);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(c.moe.experts, 0);
  EXPECT_FALSE(c.fp8 || c.rope_interleave);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(128001, 128008, 128009));
  EXPECT_NEAR(softmax_scale(c), 1 / std::sqrt(128.0), 1e-12);
}

TEST(Config, MixtralAsPublishedAndWithASlidingWindow) {
  const auto c = parsed(changed(kMixtral));
  EXPECT_EQ(c.architecture, Architecture::kMixtral);
  EXPECT_EQ(c.moe.experts, 8);
  EXPECT_EQ(c.moe.top_k, 2);
  EXPECT_EQ(c.moe.intermediate_size, 14336);
  EXPECT_FALSE(c.moe.sigmoid);
  EXPECT_EQ(c.sliding_window, 0);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_EQ(parsed(changed(kMixtral, R"({"sliding_window":4096})")).sliding_window, 4096);
}

TEST(Config, OtherSpellingsOfTheSameModelAreRead) {
  // transformers 5 writes rope_parameters and dtype.
  const auto five = parsed(changed(kLlama31, R"({"rope_scaling":null,"rope_theta":null,"torch_dtype":null,
      "dtype":"bfloat16","rope_parameters":{"rope_type":"llama3","rope_theta":500000.0,"factor":8.0,
      "low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})"));
  EXPECT_EQ(rope_table(five, 100), rope_table(parsed(changed(kLlama31)), 100));
  EXPECT_EQ(five.torch_dtype, "bfloat16");
  EXPECT_EQ(parsed(changed(kMixtral, R"({"rope_theta":null,"rope_parameters":{"rope_type":"default",
      "rope_theta":250000}})"))
                .rope_theta,
            250000);
  // Configurations older than the keys.
  const auto old =
      parsed(changed(kLlama31, R"({"rope_theta":null,"rope_scaling":null,"num_key_value_heads":null})"));
  EXPECT_EQ(old.rope_theta, 10000);
  EXPECT_EQ(old.kv_heads, 32);
  // A head dimension that is not hidden / heads; a query without a low-rank step.
  EXPECT_EQ(parsed(changed(kLlama31, R"({"head_dim":64})")).head_dim, 64);
  auto plain_q = changed(kDeepseekV3);
  plain_q["q_lora_rank"] = nullptr;
  EXPECT_EQ(parsed(plain_q).mla.q_lora_rank, 0);
}

struct Refusal {
  const char* base;
  const char* patch;
  const char* message;
  ErrorCode code = ErrorCode::kInvalidArgument;
};

const Refusal kWrong[] = {
    {kLlama31, R"({"architectures":null})", "\"architectures\" must be a list of one name"},
    {kLlama31, R"({"architectures":"LlamaForCausalLM"})", "\"architectures\" must be a list of one name"},
    {kLlama31, R"({"hidden_size":null})", "the key \"hidden_size\" is missing"},
    {kLlama31, R"({"hidden_size":0})", "\"hidden_size\" must be an integer from 1 to 1048576, not 0"},
    {kLlama31, R"({"hidden_size":-4096})", "not -4096"},
    {kLlama31, R"({"hidden_size":1048577})", "\"hidden_size\" must be"},
    {kLlama31, R"({"hidden_size":18446744073709551615})", "\"hidden_size\" must be"},
    {kLlama31, R"({"hidden_size":4096.0})", "not 4096.0"},
    {kLlama31, R"({"hidden_size":"4096"})", "not \"4096\""},
    {kLlama31, R"({"num_hidden_layers":1025})", "\"num_hidden_layers\" must be"},
    {kLlama31, R"({"vocab_size":4194305})", "\"vocab_size\" must be"},
    {kLlama31, R"({"max_position_embeddings":67108865})", "\"max_position_embeddings\" must be"},
    {kLlama31, R"({"num_key_value_heads":5})", "is not a multiple of \"num_key_value_heads\" 5"},
    {kLlama31, R"({"num_attention_heads":24,"num_key_value_heads":8})", "there is no \"head_dim\""},
    {kLlama31, R"({"head_dim":65})", "the head dimension 65 must be even"},
    {kLlama31, R"({"rms_norm_eps":"small"})", "\"rms_norm_eps\" must be a number"},
    {kLlama31, R"({"rms_norm_eps":-1e-6})", "\"rms_norm_eps\" must be a number"},
    {kLlama31, R"({"rope_theta":0})", "\"rope_theta\" must be a number"},
    {kLlama31, R"({"tie_word_embeddings":1})", "\"tie_word_embeddings\" must be true or false"},
    {kLlama31, R"({"eos_token_id":128256})", "\"eos_token_id\" must be a token of the vocabulary"},
    {kLlama31, R"({"eos_token_id":[1,-1]})", "\"eos_token_id\" must be a token of the vocabulary"},
    {kLlama31, R"({"bos_token_id":"<s>"})", "\"bos_token_id\" must be a token of the vocabulary"},
    {kLlama31, R"({"rope_scaling":"llama3"})", "\"rope_scaling\" must be an object or null"},
    {kLlama31, R"({"rope_scaling":{"factor":null}})", "\"rope_scaling\": the key \"factor\" is missing"},
    {kLlama31, R"({"rope_scaling":{"factor":0.5}})", "\"factor\" must be a number from 1"},
    {kLlama31, R"({"rope_scaling":{"high_freq_factor":1}})", "\"high_freq_factor\" must be above"},
    {kLlama31, R"({"rope_scaling":{"type":"yarn"}})", "\"rope_type\" and \"type\" differ"},
    {kLlama31, R"({"rope_parameters":{"rope_type":"default"}})", "are both there"},
    {kMixtral, R"({"num_experts_per_tok":9})", "\"num_experts_per_tok\" must be an integer from 1 to 8"},
    {kMixtral, R"({"num_local_experts":4097})", "\"num_local_experts\" must be"},
    {kMixtral, R"({"num_key_value_heads":null})", "the key \"num_key_value_heads\" is missing"},
    {kDeepseekV3, R"({"q_lora_rank":null})", "the key \"q_lora_rank\" is missing"},
    {kDeepseekV3, R"({"n_group":7})", "must make \"n_group\" 7 equal groups"},
    {kDeepseekV3, R"({"n_group":256})", "equal groups of two or more"},
    {kDeepseekV3, R"({"topk_group":9})", "\"topk_group\" must be an integer from 1 to 8"},
    {kDeepseekV3, R"({"num_experts_per_tok":129})", "is more than \"topk_group\" 4 groups have"},
    {kDeepseekV3, R"({"first_k_dense_replace":62})", "\"first_k_dense_replace\" must be"},
    {kDeepseekV3, R"({"qk_rope_head_dim":63})", "\"qk_rope_head_dim\" must be even"},
    {kDeepseekV3, R"({"num_key_value_heads":8})", "\"num_key_value_heads\" must equal"},
    {kDeepseekV3, R"({"quantization_config":true})", "\"quantization_config\" must be an object"},
};

const Refusal kUnsupportedKeys[] = {
    {kDeepseekV3, R"({"architectures":["DeepseekV2ForCausalLM"]})", "the architecture DeepseekV2ForCausalLM"},
    {kLlama31, R"({"architectures":["MistralForCausalLM"]})", "the architecture MistralForCausalLM"},
    {kLlama31, R"({"hidden_act":"gelu"})", "\"hidden_act\" is \"gelu\""},
    {kLlama31, R"({"torch_dtype":"float64"})", "\"torch_dtype\" is \"float64\""},
    {kLlama31, R"({"rope_scaling":{"rope_type":"dynamic"}})", "\"rope_type\" is \"dynamic\""},
    {kLlama31, R"({"rope_scaling":{"rope_type":"longrope"}})", "\"rope_type\" is \"longrope\""},
    {kLlama31, R"({"rope_scaling":{"long_factor":[1.0]}})",
     "the key \"long_factor\" is not supported for rope"},
    {kLlama31, R"({"sliding_window":4096})", "\"sliding_window\" is 4096"},
    {kLlama31, R"({"partial_rotary_factor":0.5})", "\"partial_rotary_factor\" is 0.5"},
    {kLlama31, R"({"attn_logit_softcapping":50.0})", "\"attn_logit_softcapping\" is 50.0"},
    {kLlama31, R"({"layer_types":["full_attention","sliding_attention"]})", "\"layer_types\" is"},
    {kMixtral, R"({"attention_bias":true})", "\"attention_bias\" is true"},
    {kDeepseekV3, R"({"topk_method":"group_limited_greedy"})", "\"topk_method\" is \"group_limited_greedy\""},
    {kDeepseekV3, R"({"scoring_func":"softmax"})", "\"scoring_func\" is \"softmax\""},
    {kDeepseekV3, R"({"moe_layer_freq":2})", "\"moe_layer_freq\" is 2"},
    {kDeepseekV3, R"({"index_topk":2048})", "\"index_topk\" is 2048"},
    {kDeepseekV3, R"({"quantization_config":{"quant_method":"awq"}})", "\"quant_method\" is \"awq\""},
    {kDeepseekV3, R"({"quantization_config":{"fmt":"e5m2"}})", "\"fmt\" is \"e5m2\""},
    {kDeepseekV3, R"({"quantization_config":{"weight_block_size":[64,128]}})",
     "\"weight_block_size\" is [64,128]"},
    {kDeepseekV3, R"({"quantization_config":{"weight_block_size":null}})",
     "\"weight_block_size\" is missing"},
    {kDeepseekV3, R"({"quantization_config":{"activation_scheme":"static"}})",
     "\"activation_scheme\" is \"static\""},
};

TEST(Config, WhatIsWrongOrNotUnderstoodIsRefusedByItsKey) {
  const auto refused = [](const Refusal& r, ErrorCode code) {
    SCOPED_TRACE(r.patch);
    const auto config = parse_config(changed(r.base, r.patch), "m/config.json");
    ASSERT_FALSE(config);
    EXPECT_EQ(config.error().code, code) << config.error().message;
    EXPECT_THAT(config.error().message, ::testing::StartsWith("m/config.json: "));
    EXPECT_THAT(config.error().message, HasSubstr(r.message));
  };
  for (const auto& r : kWrong) refused(r, ErrorCode::kInvalidArgument);
  for (const auto& r : kUnsupportedKeys) refused(r, ErrorCode::kUnsupported);
  EXPECT_FALSE(parse_config(Json::array(), "x"));
}

TEST(Config, NumbersThatAreNotFiniteAreRefused) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    auto json = changed(kLlama31);
    json["rms_norm_eps"] = bad;
    EXPECT_FALSE(parse_config(json, "x"));
    json = changed(kDeepseekV3);
    json["rope_scaling"]["factor"] = bad;
    EXPECT_FALSE(parse_config(json, "x"));
  }
}

TEST(Config, KeysThatChangeNothingAreAccepted) {
  parsed(
      changed(kLlama31, R"({"partial_rotary_factor":1.0,"layer_types":["full_attention"],"use_qk_norm":false,
      "attention_dropout":0.1,"sliding_window":4096,"use_sliding_window":false,"auto_map":{"AutoConfig":"x.y"}})"));
  EXPECT_TRUE(parsed(changed(kLlama31, R"({"attention_bias":true,"mlp_bias":true})")).attention_bias);
}

TEST(Config, EveryWrongTypeOfEveryKeyIsRefusedOrHarmless) {
  for (const char* base : {kDeepseekV3, kLlama31, kMixtral}) {
    const auto good = changed(base);
    for (const auto& [key, _] : good.items()) {
      for (const auto& value :
           {Json(nullptr), Json(-1), Json(0), Json(1e300), Json("x"), Json::array({Json::array()}),
            Json::object({{"a", 1}}), Json(true), Json(u64{1} << 63)}) {
        auto json = good;
        json[key] = value;
        const auto c = parse_config(json, "x");
        if (!c) continue;
        EXPECT_GE(c->head_dim, 1) << key;
        EXPECT_EQ(c->heads % c->kv_heads, 0) << key;
        EXPECT_TRUE(std::isfinite(softmax_scale(*c))) << key;
        for (const float v : rope_table(*c, 3)) ASSERT_TRUE(std::isfinite(v)) << key << to_text(value);
      }
    }
  }
}

// Expected values: the functions of transformers 5.23's modeling_rope_utils, run in float64. In short, with
// i = pair and d = dimension of the head's rotated part: f = theta^(-2i/d);
//   llama3: w = original * f / 2pi; f / factor if w < low, f if w > high, else the mix
//           (1 - s) f / factor + s f with s = (w - low) / (high - low);
//   yarn:   edge(b) = d ln(original / (2pi b)) / (2 ln theta), lo = floor(edge(fast)), hi = ceil(edge(slow)),
//           r = clamp((i - lo) / (hi - lo), 0, 1); f (1 - r) + f / factor r;
// and then cos(p f), sin(p f), times the attention factor.
struct RopePoint {
  i64 position, pair;
  double cosine, sine;
};
void expect_points(const ModelConfig& c, i64 dim, const std::vector<RopePoint>& points) {
  const auto table = rope_table(c, 16384);
  ASSERT_EQ(table.size(), static_cast<std::size_t>(16384 * dim));
  for (const auto& p : points) {
    const auto at = static_cast<std::size_t>(p.position * dim + p.pair);
    EXPECT_NEAR(table[at], p.cosine, 2e-7) << p.position << " " << p.pair;
    EXPECT_NEAR(table[at + static_cast<std::size_t>(dim / 2)], p.sine, 2e-7) << p.position << " " << p.pair;
  }
}

TEST(RopeTable, YarnOfDeepseekV3) {
  expect_points(parsed(changed(kDeepseekV3)), 64,
                {{1, 8, 0.995004165, 0.099833417},
                 {1, 16, 0.999984875, 0.005499972},
                 {1, 21, 0.999999914, 0.000414990},
                 {1, 31, 1.000000000, 0.000003334},
                 {1000, 8, 0.862318872, -0.506365641},
                 {1000, 16, 0.708669774, -0.705540326},
                 {1000, 21, 0.915120192, 0.403181144},
                 {1000, 31, 0.999994443, 0.003333797},
                 {16383, 8, -0.040557720, -0.999177197},
                 {16383, 16, -0.540565698, 0.841301804},
                 {16383, 21, 0.869995866, 0.493059016},
                 {16383, 31, 0.998508824, 0.054590553}});
}

TEST(RopeTable, YarnWithTwoMscalesScalesCosinesByTheirRatio) {
  const auto c = parsed(changed(kDeepseekV3, R"({"rope_scaling":{"mscale":0.707}})"));
  expect_points(c, 64,
                {{1, 0, 0.497641308, 0.775030418},
                 {1, 16, 0.921028425, 0.005065707},
                 {1, 31, 0.921042355, 0.000003071},
                 {1000, 0, 0.517974949, 0.761591080},
                 {1000, 16, 0.652714878, -0.649832523},
                 {1000, 31, 0.921037237, 0.003070569},
                 {16383, 0, -0.846282185, 0.363490694},
                 {16383, 16, -0.497883904, 0.774874595},
                 {16383, 31, 0.919668919, 0.050280212}});
  EXPECT_NEAR(softmax_scale(c), 0.135234, 5e-7);  // mscale_all_dim alone sets it
}

TEST(RopeTable, Llama3OfLlama31) {
  expect_points(parsed(changed(kLlama31)), 128,
                {{1, 16, 0.999292977, 0.037597168},
                 {1, 32, 0.999999862, 0.000524846},
                 {1, 37, 0.999999998, 0.000063415},
                 {1, 63, 1.000000000, 0.000000307},
                 {1000, 16, 0.995671099, -0.092946561},
                 {1000, 32, 0.865401037, 0.501079878},
                 {1000, 37, 0.997989934, 0.063372648},
                 {1000, 63, 0.999999953, 0.000306893},
                 {16383, 16, 0.940245873, 0.340496252},
                 {16383, 32, -0.677657882, 0.735377315},
                 {16383, 37, 0.507142485, 0.861862228},
                 {16383, 63, 0.999987361, 0.005027800}});
}

TEST(RopeTable, LinearDividesEveryFrequency) {
  expect_points(
      parsed(changed(kMixtral, R"({"rope_theta":10000,"rope_scaling":{"type":"linear","factor":4.0}})")), 128,
      {{1, 0, 0.968912422, 0.247403959},
       {1, 37, 0.999999259, 0.001217419},
       {1, 63, 1.000000000, 0.000028870},
       {1000, 0, 0.240988305, -0.970528020},
       {1000, 37, 0.346068590, 0.938209215},
       {1000, 63, 0.999583303, 0.028865540},
       {16383, 0, 0.631879710, -0.775066469},
       {16383, 37, 0.457676200, 0.889118944},
       {16383, 63, 0.890219363, 0.455532092}});
}

TEST(RopeTable, YarnWithoutMscaleFollowsThePaper) {
  const char* yarn = R"({"max_position_embeddings":131072,"rope_scaling":{"rope_type":"yarn","factor":4.0,
      "original_max_position_embeddings":32768}})";
  expect_points(parsed(changed(kMixtral, yarn)), 128,
                {{1, 0, 0.615204110, 0.958123633},
                 {1, 32, 1.138629229, 0.000686527},
                 {1, 37, 1.138629427, 0.000147944},
                 {1, 63, 1.138629436, 0.000000353},
                 {1000, 0, 0.640341371, 0.941509385},
                 {1000, 32, 0.937856427, 0.645679731},
                 {1000, 37, 1.129031669, 0.147527907},
                 {1000, 63, 1.138629381, 0.000353242},
                 {16383, 0, -1.046207920, 0.449361749},
                 {16383, 32, -1.023681827, -0.498550408},
                 {16383, 37, -0.602769348, 0.965994879},
                 {16383, 63, 1.138614729, 0.005787140}});
  auto json = changed(kMixtral, yarn);
  json["rope_scaling"]["truncate"] = false;
  json["rope_scaling"]["attention_factor"] = 1.25;
  expect_points(parsed(json), 128,
                {{1, 0, 0.675377882, 1.051838731},
                 {1, 32, 1.249999769, 0.000759260},
                 {1, 37, 1.249999990, 0.000158796},
                 {1, 63, 1.250000000, 0.000000388},
                 {1000, 0, 0.702973845, 1.033599426},
                 {1000, 32, 1.026412713, 0.713426199},
                 {1000, 37, 1.239927078, 0.158369322},
                 {1000, 63, 1.249999940, 0.000387793},
                 {16383, 0, -1.148538636, 0.493314303},
                 {16383, 32, -1.080785358, -0.628015136},
                 {16383, 37, -0.610711129, 1.090656645},
                 {16383, 63, 1.249983855, 0.006353186}});
  // Without a factor it is the ratio of the two lengths.
  json = changed(kMixtral, yarn);
  json["rope_scaling"].erase("factor");
  EXPECT_EQ(parsed(json).rope_scaling.factor, 4);
}

class ConfigFolder : public ::testing::Test {
 protected:
  ConfigFolder() {
    std::string pattern = (fs::temp_directory_path() / "trireme-config-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
  }
  ~ConfigFolder() override {
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
  void write(const char* name, std::string_view text) const { std::ofstream(dir_ / name) << text; }
  fs::path dir_;
};

TEST_F(ConfigFolder, GenerationConfigSaysWhereSequencesEnd) {
  write("config.json", kMixtral);
  EXPECT_THAT(load_config(dir_.string())->eos_token_ids, ElementsAre(2));
  write("generation_config.json", R"({"eos_token_id":[2,7],"do_sample":false})");
  EXPECT_THAT(load_config(dir_.string())->eos_token_ids, ElementsAre(2, 7));
  EXPECT_THAT(load_config((dir_ / "config.json").string())->eos_token_ids, ElementsAre(2));
  write("generation_config.json", R"({"eos_token_id":32000})");
  const auto wrong = load_config(dir_.string());
  ASSERT_FALSE(wrong);
  EXPECT_THAT(wrong.error().message, HasSubstr("generation_config.json: \"eos_token_id\""));
}

TEST_F(ConfigFolder, FilesThatAreNoConfigurationAreRefused) {
  EXPECT_EQ(load_config(dir_.string()).error().code, ErrorCode::kNotFound);
  write("config.json", "{");
  EXPECT_THAT(load_config(dir_.string()).error().message, HasSubstr("not valid JSON"));
  write("config.json", R"({"architectures":["A"],"architectures":["B"]})");
  EXPECT_THAT(load_config(dir_.string()).error().message, HasSubstr("stands twice"));
  fs::remove(dir_ / "config.json");
  ASSERT_EQ(::mkfifo((dir_ / "config.json").c_str(), 0600), 0);
  EXPECT_THAT(load_config(dir_.string()).error().message, HasSubstr("is a pipe"));
}

TEST(Config, TheDemoModelsLoad) {
  const auto demo = load_config(TRIREME_SOURCE_DIR "/models/trireme-demo");
  ASSERT_TRUE(demo) << demo.error().message;
  EXPECT_EQ(demo->moe.experts, 16);
  EXPECT_NEAR(softmax_scale(*demo), 1 / std::sqrt(192.0), 1e-12);
  const auto draft = load_config(TRIREME_SOURCE_DIR "/models/trireme-demo-draft");
  ASSERT_TRUE(draft) << draft.error().message;
  EXPECT_TRUE(draft->tie_word_embeddings);
}

TEST(Config, EveryNamedGeometryIsOneThatLoads) {
  for (const auto& name : geometry_names()) {
    const auto config = parse_config(*geometry(name), name);
    EXPECT_TRUE(config) << config.error().message;
  }
  EXPECT_FALSE(geometry("nope"));
}

}  // namespace
}  // namespace trireme::models
