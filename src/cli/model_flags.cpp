#include "cli/model_flags.h"

#include <fmt/ranges.h>

#include <charconv>

#include "cli/progress.h"
#include "models/geometry.h"

namespace trireme::cli {

void ModelFlags::add(CLI::App& app) {
  auto& o = options;
  app.add_option("--model,--model-path", o.model, "Folder of a Hugging Face checkpoint");
  app.add_option("--device", o.device, "cpu, cuda or auto (the best present)")->capture_default_str();
  app.add_flag("--oracle", o.oracle, "The readable float32 reference instead of the fast path (slow)");
  app.add_option("--threads", o.threads, "CPU threads for the model; 0: one a core")->capture_default_str();
  app.add_flag("--deterministic,--enable-deterministic-inference", o.deterministic,
               "The same request gives the same bytes whatever batch, chunking or cache hit it meets");
  app.add_option("--max-model-len,--context-length", o.max_model_len,
                 "Prompt and answer together; 0: what the model allows");
  app.add_option("--kv-cache-dtype", kv_cache_dtype, "auto, bfloat16, float32 (CPU) or fp8 (MLA on a GPU)")
      ->capture_default_str();
  app.add_option("--activation-dtype", activation_dtype,
                 "On a GPU, what FP8 weights are multiplied with: fp8 (auto), or bfloat16, which takes the "
                 "weights out to "
                 "bfloat16 as well")
      ->capture_default_str();
  app.add_option("--prefill-attention-dtype", prefill_attention_dtype,
                 "On a GPU, what MLA multiplies in the attention of prompts: bfloat16 (auto), or fp8, which "
                 "pays from about 4,000 tokens on")
      ->capture_default_str();
  app.add_option("--load-format", load_format, "auto, or dummy for random weights of the right shape")
      ->capture_default_str();
  app.add_option("--model-config", o.model_config, "A bare config.json, with dummy weights");
  app.add_option("--geometry", o.geometry,
                 fmt::format("A well-known model's shape, with dummy weights: {}",
                             fmt::join(models::geometry_names(), ", ")));
  app.add_option("--num-layers", o.layers, "With dummy weights: fewer layers than the config says");
}

Result<engine::RuntimeOptions> ModelFlags::resolve() const {
  engine::RuntimeOptions out = options;
  if (load_format != "auto" && load_format != "dummy" && load_format != "safetensors") {
    return invalid("--load-format {}: use auto, safetensors or dummy", load_format);
  }
  if (!out.model.empty() && load_format != "dummy" && !(out.geometry.empty() && out.model_config.empty())) {
    return invalid("--model has weights of its own: leave out {}, or add --load-format dummy",
                   out.geometry.empty() ? "--model-config" : "--geometry");
  }
  // A geometry or a bare config.json has no weights to read.
  out.dummy =
      load_format == "dummy" || !out.geometry.empty() || (!out.model_config.empty() && out.model.empty());
  if (out.layers < 0) return invalid("--num-layers {}: must be at least 1", out.layers);
  if (activation_dtype != "auto" && activation_dtype != "fp8" && activation_dtype != "bfloat16" &&
      activation_dtype != "bf16")
    return invalid("--activation-dtype {}: use auto, fp8 or bfloat16", activation_dtype);
  out.fp8_activations = !activation_dtype.starts_with("b");
  if (prefill_attention_dtype != "auto" && prefill_attention_dtype != "fp8" &&
      prefill_attention_dtype != "bfloat16" && prefill_attention_dtype != "bf16")
    return invalid("--prefill-attention-dtype {}: use auto, fp8 or bfloat16", prefill_attention_dtype);
  out.fp8_prefill_attention = prefill_attention_dtype == "fp8";
  ASSIGN(out.kv_dtype, engine::parse_kv_dtype(kv_cache_dtype));
  out.progress = progress_bar("loading");
  return out;
}

void EngineFlags::add(CLI::App& app) {
  auto& o = options;
  app.add_option("--max-num-seqs,--max-running-requests", o.max_num_seqs, "Requests computed at once")
      ->capture_default_str();
  app.add_option("--max-num-batched-tokens", o.max_num_batched_tokens,
                 "Tokens of one step, prompts and answers together")
      ->capture_default_str();
  app.add_option("--chunked-prefill-size", o.chunked_prefill_size,
                 "Most prompt tokens of one request in a step; 0: the step's own limit")
      ->capture_default_str();
  app.add_option("--max-queued-requests", o.max_queued_requests,
                 "Requests that may wait; one more is answered 429")
      ->capture_default_str();
  app.add_option("--max-queue-time", o.max_queue_time_s,
                 "Seconds that a request may wait for its first step; 0: no limit")
      ->capture_default_str();
  app.add_option("--schedule-policy,--scheduling-policy", policy, "fair (between API keys), priority or fcfs")
      ->capture_default_str();
  app.add_flag("--disable-radix-cache,--no-enable-prefix-caching", no_prefix_caching,
               "Share no KV between requests");
  app.add_option("--kv-cache-memory-bytes", kv_memory,
                 "Memory for KV, as in 4G; default: on a GPU what is left of it, else what full contexts "
                 "need, at most a "
                 "quarter of memory");
  app.add_option("--gpu-memory-utilization,--mem-fraction-static", o.gpu_memory_utilization,
                 "On a GPU: share of its memory to use; what weights and workspace leave is KV")
      ->capture_default_str();
  app.add_flag("--enforce-eager,--disable-cuda-graph", eager,
               "On a GPU: launch each kernel of a decode step from the host");
  app.add_option("--cuda-graph-max-bs,--max-cudagraph-capture-size", o.graph_max_seqs,
                 "On a GPU: largest batch that is recorded as a graph; 0: --max-num-seqs");
  app.add_option("--num-kv-blocks,--num-gpu-blocks-override", o.kv_blocks,
                 "Exact number of 64-token KV blocks instead");
}

Result<engine::EngineOptions> EngineFlags::resolve(const engine::RuntimeOptions& runtime) const {
  engine::EngineOptions out = options;
  out.runtime = runtime;
  ASSIGN(out.policy, sched::parse_schedule_policy(policy));
  out.prefix_caching = !no_prefix_caching;
  out.graphs = !eager;
  if (!(out.gpu_memory_utilization > 0 && out.gpu_memory_utilization <= 1))
    return invalid("--gpu-memory-utilization {}: must be above 0 and at most 1", out.gpu_memory_utilization);
  if (out.graph_max_seqs < 0)
    return invalid("--cuda-graph-max-bs {}: must be at least 1", out.graph_max_seqs);
  if (!kv_memory.empty()) {
    ASSIGN(out.kv_cache_bytes, parse_bytes("--kv-cache-memory-bytes", kv_memory));
  }
  if (out.kv_blocks < 0) return invalid("--num-kv-blocks {}: must be at least 1", out.kv_blocks);
  return out;
}

Result<i64> parse_bytes(const std::string& flag, const std::string& text) {
  i64 value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  std::string unit(rest, end);
  if (unit.ends_with("iB"))
    unit.resize(unit.size() - 2);
  else if (unit.ends_with("B"))
    unit.resize(unit.size() - 1);
  const int shift = unit.empty()  ? 0
                    : unit == "K" ? 10
                    : unit == "M" ? 20
                    : unit == "G" ? 30
                    : unit == "T" ? 40
                                  : -1;
  if (error != std::errc() || shift < 0 || value <= 0 || value > (i64{1} << (62 - shift))) {
    return invalid("{} {}: give a size such as 512M or 4G", flag, text);
  }
  return value << shift;
}

}  // namespace trireme::cli
