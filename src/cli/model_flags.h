// Flags that several subcommands share, under the names that users of SGLang and vLLM know.
#pragma once
#include <string>

#include "cli/command.h"
#include "engine/engine.h"

namespace trireme::cli {

// --model, --device, --oracle, --threads, --max-model-len, --kv-cache-dtype, --deterministic, --load-format,
// ...
struct ModelFlags {
  engine::RuntimeOptions options;
  std::string kv_cache_dtype = "auto", load_format = "auto", activation_dtype = "auto",
              prefill_attention_dtype = "auto";
  void add(CLI::App& app);
  // The options as judged, with a progress bar on a terminal.
  Result<engine::RuntimeOptions> resolve() const;
};

// --max-num-seqs, --max-num-batched-tokens, --schedule-policy, ...
struct EngineFlags {
  engine::EngineOptions options;
  std::string policy = "fair";
  std::string kv_memory;
  bool no_prefix_caching = false, eager = false;
  void add(CLI::App& app);
  Result<engine::EngineOptions> resolve(const engine::RuntimeOptions& runtime) const;
};

// "512M", "2G", "1048576".
Result<i64> parse_bytes(const std::string& flag, const std::string& text);

}  // namespace trireme::cli
