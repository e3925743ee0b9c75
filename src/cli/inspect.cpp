// `trireme inspect`: what a model is, and the memory it takes, from its config alone.
#include <fmt/format.h>

#include <map>

#include "cli/model_flags.h"
#include "models/ledger.h"

namespace trireme::cli {
namespace {

struct InspectFlags {
  ModelFlags model;
  EngineFlags engine;
  bool tensors = false;
};

std::string mib(i64 bytes) { return fmt::format("{:.2f} MiB", static_cast<double>(bytes) / (1 << 20)); }

// What serve will take of the GPU, line by line; it sizes its KV pool from the same numbers.
void print_ledger(const engine::MemoryLedger& m) {
  const auto line = [](const std::string& what, i64 bytes) {
    fmt::print("{:<44}{:>14.3f} GiB\n", what, static_cast<double>(bytes) / (1 << 30));
  };
  fmt::print("\nmemory of rank 0\n");
  line("driver and other processes", m.in_use);
  line("weights", m.weights);
  line("  of which redundant experts", m.redundant_experts);
  line("workspace of the largest eager step", m.prefill_workspace);
  line("workspace of recorded decode steps", m.decode_workspace);
  line("scratch of kernels and libraries", m.scratch);
  line(fmt::format("{} recorded graphs", m.graph_count), m.graphs);
  line("NCCL", m.nccl);
  line(fmt::format("KV pool, {} blocks", m.kv_blocks), m.kv);
  line("left alone", m.total - m.fixed() - m.kv);
  line("total", m.total);
}

Status run_inspect(const InspectFlags& flags) {
  ASSIGN(auto options, flags.model.resolve());
  options.dummy |= options.model.empty();
  ASSIGN(const auto config, engine::config_of(options));
  ASSIGN(auto backend, engine::make_backend(options));
  ASSIGN(const i64 positions, engine::max_model_len_of(options, config));
  const auto groups = models::weight_groups(config, positions, *backend);
  const auto prepared = [&](i64 n, i64 k, DType stored) { return backend->prepared_bytes(n, k, stored); };

  struct Row {
    i64 parameters = 0, stored = 0, loaded = 0;
  };
  std::map<std::string, Row> parts;
  Row total;
  for (const auto& g : groups) {
    const bool derived = g.name.starts_with("absorbed") || g.name == "cos, sin" || g.name.ends_with("again");
    for (Row* r : {&parts[g.part], &total}) {
      r->parameters += derived ? 0 : g.elements();
      r->stored += derived ? 0 : g.stored_bytes();
      r->loaded += models::loaded_bytes(g, prepared);
    }
  }
  const DType kv_dtype = engine::kv_dtype_for(options, config, *backend);
  TRY(engine::check_kv_dtype(kv_dtype, config, *backend));
  TRY(engine::check_prefill_attention(options, config, *backend));
  const KvLayout kv = models::kv_layout(config, kv_dtype);

  fmt::print("architecture     {}\n", config.architecture_name);
  fmt::print("device           {} ({}, {} threads)\n", backend->name(), backend->device().chip().name,
             backend->device().chip().units);
  fmt::print("layers           {}, hidden {}, heads {}, vocabulary {}\n", config.layers, config.hidden_size,
             config.heads, config.vocab_size);
  if (config.moe.experts > 0) {
    fmt::print("experts          {} routed ({} a token, {} of {} groups), {} shared\n", config.moe.experts,
               config.moe.top_k, config.moe.top_groups, config.moe.groups, config.moe.shared_experts);
  }
  fmt::print("context          {} tokens\n\n", positions);
  fmt::print("{:<22}{:>16}{:>18}{:>18}\n", "weights", "parameters", "in the checkpoint", "in memory");
  for (const auto& [name, r] : parts)
    fmt::print("{:<22}{:>16}{:>18}{:>18}\n", name, r.parameters, mib(r.stored), mib(r.loaded));
  fmt::print("{:<22}{:>16}{:>18}{:>18}\n\n", "total", total.parameters, mib(total.stored), mib(total.loaded));
  if (flags.tensors) {
    for (const auto& g : groups)
      fmt::print("  {:<22}{:<26}{:>5} x [{}, {}] {}\n", g.part, g.name, g.count, g.n, g.k,
                 to_string(g.stored));
    fmt::print("\n");
  }
  fmt::print("KV cache         {} bytes a token in {}, {} a block of 64\n", kv.token_bytes() * kv.layers,
             to_string(kv.dtype), mib(kv.block_bytes()));
  fmt::print("                 {} for one full context\n",
             mib(ceil_div(positions, kKvBlockTokens) * kv.block_bytes()));
  ASSIGN(auto engine_options, flags.engine.resolve(options));
  if (!backend->device().host_readable()) {
    ASSIGN(const auto ledger, engine::ledger_for(engine_options, config, *backend, positions, kv_dtype));
    print_ledger(ledger);
    return {};
  }
  ASSIGN(const i64 blocks,
         engine::kv_blocks_for(engine_options, kv, positions, backend->device().chip().memory_bytes));
  fmt::print("                 {} for the pool that serve would take ({} blocks)\n",
             mib(blocks * kv.block_bytes()), blocks);
  fmt::print("\n{:<22}{:>18}\n", "weights + KV pool", mib(total.loaded + blocks * kv.block_bytes()));
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto flags = std::make_shared<InspectFlags>();
  flags->model.add(app);
  flags->engine.add(app);
  app.add_flag("--tensors", flags->tensors, "List every kind of tensor");
  app.callback([flags, &action] { action = [flags] { return run_inspect(*flags); }; });
}

}  // namespace trireme::cli
