#include <array>
#include <cmath>
#include <limits>

#include "server/openai/fields.h"
#include "server/openai/request.h"

namespace trireme::server {
namespace {

constexpr std::size_t kMaxStops = 16;
constexpr std::size_t kMaxStopBytes = 1024;
constexpr std::size_t kMaxLogitBias = 1024;
constexpr std::size_t kMaxStopTokens = 128;
constexpr int kMaxLogprobs = 20;

// Members that would change the answer and that are not built: ignoring them would be a silent lie.
constexpr std::array kUnsupported{
    "functions",
    "function_call",
    "audio",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "regex",
    "ebnf",
    "bad_words",
    "structured_outputs",
    "prompt_logprobs",
    "prompt_embeds",
    "chat_template",
    "truncate_prompt_tokens",
    "documents",
    "logits_processors",
    "allowed_token_ids",
    "structural_tag",
    "lora_path",
};

bool means_nothing(const OrderedJson& v) {
  return v == false || (v.is_structured() && v.empty()) ||
         (v.is_string() && v.get_ref<const std::string&>().empty());
}

ApiResult<void> refuse_unsupported(const Fields& fields, bool chat) {
  for (const auto* name : kUnsupported) {
    const auto* value = fields.find(name);
    if (value && !means_nothing(*value)) {
      return bad_param(name, fmt::format("{} is not supported", name), "unsupported_parameter");
    }
  }
  if (const auto* beam = fields.find("use_beam_search"); beam && *beam != false) {
    return bad_param("use_beam_search", "use_beam_search is not supported", "unsupported_parameter");
  }
  if (const auto* format = fields.find("response_format")) {
    if (!format->is_object() || !format->contains("type"))
      return fields.wrong_type("response_format", "an object with a type");
    if ((*format)["type"] != "text") {
      return bad_param("response_format", "response_format: only {\"type\":\"text\"} is supported yet",
                       "unsupported_value");
    }
  }
  if (const auto* modalities = fields.find("modalities");
      modalities && *modalities != OrderedJson::array({"text"})) {
    return bad_param("modalities", "modalities: only [\"text\"] is supported", "unsupported_value");
  }
  if (const auto* suffix = fields.find("suffix"); suffix && !chat && !means_nothing(*suffix)) {
    return bad_param("suffix", "suffix is not supported", "unsupported_parameter");
  }
  if (const auto* echo = fields.find("echo"); echo && chat && *echo != false) {
    return bad_param("echo", "echo is not supported in chats", "unsupported_parameter");
  }
  return {};
}

ApiResult<void> read_stop(const Fields& fields, std::vector<std::string>& out) {
  const auto* stop = fields.find("stop");
  if (!stop) return {};
  const auto add = [&](const OrderedJson& value) -> ApiResult<void> {
    if (!value.is_string())
      return bad_param("stop", "stop: a string or an array of strings is expected", "invalid_type");
    const auto& text = value.get_ref<const std::string&>();
    if (text.empty()) return bad_param("stop", "stop: a stop string cannot be empty");
    if (text.size() > kMaxStopBytes) {
      return bad_param("stop", fmt::format("stop: a stop string of {} bytes; at most {} are allowed",
                                           text.size(), kMaxStopBytes));
    }
    out.push_back(text);
    return {};
  };
  if (!stop->is_array()) return add(*stop);
  if (stop->size() > kMaxStops) {
    return bad_param("stop",
                     fmt::format("stop: {} stop strings; at most {} are allowed", stop->size(), kMaxStops));
  }
  for (const auto& value : *stop) TRY(add(value));
  return {};
}

ApiResult<void> read_logit_bias(const Fields& fields, int vocab_size, SamplingParams& out) {
  const auto* bias = fields.find("logit_bias");
  if (!bias) return {};
  if (!bias->is_object()) return fields.wrong_type("logit_bias", "an object from token ids to numbers");
  if (bias->size() > kMaxLogitBias) {
    return bad_param("logit_bias", fmt::format("logit_bias: {} entries; at most {} are allowed", bias->size(),
                                               kMaxLogitBias));
  }
  for (const auto& [key, value] : bias->items()) {
    const bool digits =
        !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == std::string::npos;
    const int id = digits ? std::stoi(key) : -1;
    if (id < 0 || id >= vocab_size) {
      return bad_param("logit_bias",
                       fmt::format("logit_bias: its keys are token ids from 0 to {}", vocab_size - 1));
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= 100)) {
      return bad_param("logit_bias", "logit_bias: its values are numbers from -100 to 100");
    }
    out.logit_bias.emplace_back(id, value.get<float>());
  }
  return {};
}

ApiResult<void> read_logprobs(const Fields& fields, GenerationRequest& out) {
  if (out.chat) {
    ASSIGN(const auto wanted, fields.boolean("logprobs"));
    ASSIGN(const auto top, fields.integer("top_logprobs", 0, kMaxLogprobs));
    if (top.value_or(0) > 0 && !wanted.value_or(false)) {
      return bad_param("top_logprobs", "top_logprobs needs logprobs to be true");
    }
    out.logprobs = wanted.value_or(false);
    out.top_logprobs = static_cast<int>(top.value_or(0));
  } else {
    const auto* value = fields.find("logprobs");
    if (value && *value == false) return {};
    ASSIGN(const auto top, fields.integer("logprobs", 0, kMaxLogprobs));
    out.logprobs = top.has_value();
    out.top_logprobs = static_cast<int>(top.value_or(0));
  }
  out.sampling.logprobs = out.logprobs ? out.top_logprobs : -1;
  return {};
}

ApiResult<void> read_sampling(const Fields& fields, const RequestLimits& limits, GenerationRequest& out) {
  constexpr i64 kIntMax = std::numeric_limits<int>::max();
  auto& s = out.sampling;
  ASSIGN(const auto temperature, fields.number("temperature", 0, 2));
  ASSIGN(const auto top_p, fields.number("top_p", 0, 1, true));
  ASSIGN(const auto top_k, fields.integer("top_k", -1, kIntMax));
  ASSIGN(const auto min_p, fields.number("min_p", 0, 1));
  ASSIGN(const auto repetition, fields.number("repetition_penalty", 0, 10, true));
  ASSIGN(const auto presence, fields.number("presence_penalty", -2, 2));
  ASSIGN(const auto frequency, fields.number("frequency_penalty", -2, 2));
  ASSIGN(const auto seed,
         fields.integer("seed", std::numeric_limits<i64>::min(), std::numeric_limits<i64>::max()));
  ASSIGN(const auto ignore_eos, fields.boolean("ignore_eos"));
  ASSIGN(auto stop_tokens, fields.tokens("stop_token_ids", kMaxStopTokens, limits.vocab_size));
  s.temperature = temperature.value_or(s.temperature);
  s.top_p = top_p.value_or(s.top_p);
  s.top_k = static_cast<int>(top_k.value_or(s.top_k));
  s.min_p = min_p.value_or(s.min_p);
  s.repetition_penalty = repetition.value_or(s.repetition_penalty);
  s.presence_penalty = presence.value_or(s.presence_penalty);
  s.frequency_penalty = frequency.value_or(s.frequency_penalty);
  // -1 is how clients of other servers say "no seed".
  if (seed && *seed != -1) s.seed = static_cast<u64>(*seed);
  s.ignore_eos = ignore_eos.value_or(false);
  if (stop_tokens) s.stop_token_ids = std::move(*stop_tokens);

  ASSIGN(auto max_tokens, fields.integer("max_tokens", 1, kIntMax));
  ASSIGN(const auto max_completion, fields.integer("max_completion_tokens", 1, kIntMax));
  if (max_completion) max_tokens = max_completion;
  if (max_tokens) out.max_tokens = static_cast<int>(*max_tokens);
  ASSIGN(const auto min_tokens, fields.integer("min_tokens", 0, limits.max_model_len));
  s.min_tokens = static_cast<int>(min_tokens.value_or(0));
  if (out.max_tokens && s.min_tokens > *out.max_tokens) {
    return bad_param("min_tokens", fmt::format("min_tokens: {} is more than max_tokens, {}", s.min_tokens,
                                               *out.max_tokens));
  }
  TRY(read_logit_bias(fields, limits.vocab_size, s));
  return read_logprobs(fields, out);
}

ApiResult<void> read_stream(const Fields& fields, GenerationRequest& out) {
  ASSIGN(const auto stream, fields.boolean("stream"));
  out.stream = stream.value_or(false);
  const auto* options = fields.find("stream_options");
  if (!options) return {};
  if (!options->is_object()) return fields.wrong_type("stream_options", "an object");
  if (!out.stream) return bad_param("stream_options", "stream_options is only allowed when stream is true");
  const Fields inner(*options, "stream_options.");
  ASSIGN(const auto usage, inner.boolean("include_usage"));
  out.include_usage = usage.value_or(false);
  return {};
}

ApiResult<void> read_common(const OrderedJson& body, const RequestLimits& limits, GenerationRequest& out) {
  const Fields fields(body);
  TRY(refuse_unsupported(fields, out.chat));
  ASSIGN(const auto n, fields.integer("n", 1, limits.max_choices));
  out.n = static_cast<int>(n.value_or(1));
  ASSIGN(const auto best_of, fields.integer("best_of", 1, limits.max_choices));
  if (best_of && *best_of != out.n) {
    return bad_param("best_of", "best_of: only a value equal to n is supported", "unsupported_value");
  }
  TRY(read_sampling(fields, limits, out));
  TRY(read_stop(fields, out.text.stop));
  TRY(read_stream(fields, out));
  ASSIGN(const auto include_stop, fields.boolean("include_stop_str_in_output"));
  ASSIGN(const auto skip_special, fields.boolean("skip_special_tokens"));
  out.text.include_stop = include_stop.value_or(false);
  out.text.skip_special_tokens = skip_special.value_or(true);
  ASSIGN(const auto priority,
         fields.integer("priority", std::numeric_limits<int>::min(), std::numeric_limits<int>::max()));
  out.priority = static_cast<int>(priority.value_or(0));
  ASSIGN(auto salt, fields.text("cache_salt", 1024));
  if (salt && salt->empty()) return bad_param("cache_salt", "cache_salt: cannot be an empty string");
  out.cache_salt = salt.value_or("");
  ASSIGN(const auto user, fields.text("user", 4096));
  ASSIGN(const auto timeout, fields.number("timeout", 0.001, 86400));
  if (timeout) {
    out.timeout =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(*timeout));
  }
  return {};
}

ApiResult<void> read_prompts(OrderedJson& body, const RequestLimits& limits, GenerationRequest& out) {
  const Fields fields(body);
  const auto* prompt = fields.find("prompt");
  if (!prompt) return bad_param("prompt", "prompt is missing: give a string", "missing_required_parameter");
  const auto max_ids = static_cast<std::size_t>(limits.max_model_len);
  const auto add_tokens = [&](const OrderedJson& ids) -> ApiResult<void> {
    if (ids.empty()) return bad_param("prompt", "prompt: it has no tokens");
    if (ids.size() > max_ids) {
      return bad_param("prompt",
                       fmt::format("prompt: it has {} tokens; the model's context holds {}", ids.size(),
                                   limits.max_model_len),
                       "context_length_exceeded");
    }
    ASSIGN(auto tokens, token_array(ids, "prompt", max_ids, limits.vocab_size));
    out.prompts.emplace_back(std::move(tokens));
    return {};
  };
  if (prompt->is_string()) {
    out.prompts.emplace_back(std::move(body["prompt"].get_ref<std::string&>()));
    return {};
  }
  if (!prompt->is_array()) return fields.wrong_type("prompt", "a string, an array of strings, or token ids");
  if (prompt->empty()) return bad_param("prompt", "prompt is empty");
  if (prompt->front().is_number()) return add_tokens(*prompt);
  if (static_cast<i64>(prompt->size()) * out.n > limits.max_choices) {
    return bad_param("prompt", fmt::format("prompt: {} prompts times n {} is more than {} choices",
                                           prompt->size(), out.n, limits.max_choices));
  }
  for (const auto& item : *prompt) {
    if (item.is_string() && prompt->front().is_string()) {
      out.prompts.emplace_back(item.get_ref<const std::string&>());
    } else if (item.is_array() && prompt->front().is_array()) {
      TRY(add_tokens(item));
    } else {
      return bad_param("prompt", "prompt: all of an array are strings, or token ids, or arrays of token ids",
                       "invalid_type");
    }
  }
  return {};
}

}  // namespace

ApiResult<void> check_model(const OrderedJson& body, const RequestLimits& limits) {
  const Fields fields(body);
  const auto* model = fields.find("model");
  if (!model) return {};
  if (!model->is_string()) return fields.wrong_type("model", "a string");
  const auto& name = model->get_ref<const std::string&>();
  for (const auto& served : limits.model_names) {
    if (name == served) return {};
  }
  return tl::unexpected(ApiError{
      404, fmt::format("the model \"{}\" is not served here; /v1/models lists what is", name.substr(0, 256)),
      "invalid_request_error", "model", "model_not_found", 0});
}

ApiResult<EncodeText> parse_encode_options(const OrderedJson& body) {
  const Fields fields(body);
  ASSIGN(const auto add, fields.boolean("add_special_tokens"));
  ASSIGN(const auto parse, fields.boolean("parse_special"));
  return EncodeText{add.value_or(true), parse.value_or(false)};
}

ApiResult<GenerationRequest> parse_chat_request(OrderedJson body, const RequestLimits& limits) {
  TRY(check_model(body, limits));
  GenerationRequest out;
  out.chat = true;
  TRY(read_common(body, limits, out));
  ASSIGN(out.chat_prompt, parse_chat_prompt(body, limits));
  return out;
}

ApiResult<GenerationRequest> parse_completion_request(OrderedJson body, const RequestLimits& limits) {
  TRY(check_model(body, limits));
  GenerationRequest out;
  TRY(read_common(body, limits, out));
  const Fields fields(body);
  ASSIGN(const auto echo, fields.boolean("echo"));
  out.echo = echo.value_or(false);
  if (out.echo && out.logprobs) {
    return bad_param("logprobs", "logprobs of an echoed prompt are not supported; leave out echo or logprobs",
                     "unsupported_value");
  }
  ASSIGN(out.encode, parse_encode_options(body));
  TRY(read_prompts(body, limits, out));
  return out;
}

}  // namespace trireme::server
