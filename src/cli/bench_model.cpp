// `trireme bench decode` and `trireme bench prefill`: what the model does on this machine, beside the
// machine's limits.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "backends/cpu/measure.h"
#include "base/json.h"
#include "cli/bench.h"
#include "cli/bench_gpu.h"
#include "cli/bench_tools.h"
#include "cli/model_flags.h"
#include "cli/progress.h"
#include "engine/direct.h"
#include "models/ledger.h"

namespace trireme::cli {
namespace {

struct BenchFlags {
  ModelFlags model;
  int batch = 1, context = 512, steps = 64, warmup = 4;  // decode
  int tokens = 2048, chunk = 2048, repeats = 3;          // prefill
  i64 ep_slice = 0;
  bool eager = false;
  std::string json, trace;
};

// What the two benches of a GPU take from the flags.
GpuBenchFlags gpu_flags(const BenchFlags& f) {
  return {.batch = f.batch,
          .context = f.context,
          .steps = f.steps,
          .warmup = f.warmup,
          .tokens = f.tokens,
          .chunk = f.chunk,
          .repeats = f.repeats,
          .eager = f.eager,
          .json = f.json,
          .trace = f.trace};
}

bool on_gpu(const engine::Runtime& r) { return !r.backend->device().host_readable(); }

Result<engine::RuntimeOptions> options_of(const BenchFlags& f) {
  ASSIGN(auto options, f.model.resolve());
  if (f.ep_slice < 0) return invalid("--ep-slice {}: the number of ranks, at least 1", f.ep_slice);
  if (f.ep_slice > 1 && !options.dummy)
    return invalid(
        "--ep-slice measures one rank's share with dummy weights: use --geometry or --load-format dummy");
  if (f.ep_slice > 1) {
    ASSIGN(const auto config, engine::config_of(options));
    if (config.architecture != models::Architecture::kDeepseekV3 || config.moe.experts < f.ep_slice / 2)
      return invalid("--ep-slice {}: only for DeepSeek-V3 with so many experts", f.ep_slice);
  }
  options.ep_slice = f.ep_slice;
  return options;
}

void print_header(const engine::Runtime& r) {
  fmt::print("{} on {}, {} threads, {:.1f} MiB of weights\n\n", r.config.architecture_name,
             r.backend->device().chip().name, r.backend->device().chip().units,
             static_cast<double>(r.model->weight_bytes()) / (1 << 20));
}

Status run_decode(const BenchFlags& flags) {
  if (flags.batch < 1 || flags.context < 1 || flags.steps < 1 || flags.warmup < 0)
    return invalid("--batch, --context and --steps must be at least 1");
  ASSIGN(auto options, options_of(flags));
  const i64 most = i64{flags.context} + flags.warmup + flags.steps + 8;
  ASSIGN(const auto config, engine::config_of(options));
  if (options.max_model_len == 0) options.max_model_len = std::min(most, config.max_position_embeddings);
  ASSIGN(auto r, engine::load_runtime(options));
  if (on_gpu(r)) return bench_decode_gpu(gpu_flags(flags), options, std::move(r));
  const i64 room = i64{flags.context} + flags.warmup + flags.steps + 1;
  ASSIGN(auto runner, engine::DirectRunner::create(r, room, flags.batch));
  TRY(runner->pretend(flags.context));

  auto tokens = random_tokens(flags.batch, r.config.vocab_size);
  std::vector<double> times;
  const auto progress = progress_bar("decoding", "steps", 1);
  for (int i = 0; i < flags.warmup + flags.steps; ++i) {
    const Time begin = SteadyClock().now();
    ASSIGN(View logits, runner->decode(tokens));
    std::vector<SampleRow> rows(tokens.size());
    std::vector<SampledToken> out(tokens.size());
    TRY(r.backend->ops().sample({.logits = logits, .rows = rows, .out = out}, runner->stream()));
    for (std::size_t s = 0; s < out.size(); ++s) tokens[s] = out[s].id;
    if (i >= flags.warmup) times.push_back(seconds(SteadyClock().now() - begin));
    if (progress) progress(i + 1, flags.warmup + flags.steps);
  }
  const double step = median(times);
  const KvLayout kv = r.model->kv_layout(r.kv_dtype);
  const double weight_bytes = static_cast<double>(r.model->bytes_per_step(flags.batch));
  const double kv_bytes = static_cast<double>(kv.token_bytes()) * kv.layers *
                          (flags.context + flags.warmup + flags.steps / 2.0) * flags.batch;
  const double bytes = weight_bytes + kv_bytes;
  const double bandwidth = cpu::measured_read_bandwidth(r.backend->device().chip().units);
  const double floor = bytes / bandwidth;

  print_header(r);
  fmt::print("{:<28}{:>14}\n", "batch", flags.batch);
  fmt::print("{:<28}{:>14}\n", "context", flags.context);
  fmt::print("{:<28}{:>14.3f} ms (best {:.3f}, {} steps)\n", "time per step, median", step * 1e3,
             *std::min_element(times.begin(), times.end()) * 1e3, times.size());
  fmt::print("{:<28}{:>14.1f}\n", "tokens/s", flags.batch / step);
  fmt::print("{:<28}{:>14.2f} MiB ({:.2f} weights, {:.2f} KV)\n", "bytes per token",
             bytes / flags.batch / (1 << 20), weight_bytes / flags.batch / (1 << 20),
             kv_bytes / flags.batch / (1 << 20));
  fmt::print("{:<28}{:>14.2f} GB/s\n", "bandwidth reached", bytes / step / 1e9);
  fmt::print("{:<28}{:>14.2f} GB/s (measured: sum of a large buffer)\n", "bandwidth of this machine",
             bandwidth / 1e9);
  fmt::print("{:<28}{:>14.3f} ms\n", "floor: bytes / bandwidth", floor * 1e3);
  fmt::print("{:<28}{:>13.1f}%\n", "share of the bandwidth", 100 * floor / step);
  return write_json(flags.json, {{"bench", "decode"},
                                 {"batch", flags.batch},
                                 {"context", flags.context},
                                 {"step_ms", step * 1e3},
                                 {"tokens_per_s", flags.batch / step},
                                 {"bytes_per_token", bytes / flags.batch},
                                 {"bandwidth_gbs", bytes / step / 1e9},
                                 {"machine_bandwidth_gbs", bandwidth / 1e9},
                                 {"share", floor / step}});
}

// Time that the matrix products of `tokens` tokens would take at the rate that oneDNN reaches on the same
// shapes.
double gemm_floor(const engine::Runtime& r, i64 tokens) {
  const auto groups = models::weight_groups(r.config, r.max_model_len, *r.backend);
  double time = 0;
  for (const auto& g : groups) {
    const bool expert = g.use == models::WeightGroup::Use::kExpert;
    if ((g.use != models::WeightGroup::Use::kMatrix && !expert) || g.name.starts_with("absorbed")) continue;

    const i64 m = expert ? std::max<i64>(1, tokens * r.config.moe.top_k / r.config.moe.experts) : tokens;
    if (g.part == "head") continue;  // only one row of a prompt goes through it
    time += 2.0 * static_cast<double>(m * g.n * g.k * g.count) / cpu::onednn_gemm_rate(m, g.n, g.k);
  }
  return time;
}

Status run_prefill(const BenchFlags& flags) {
  if (flags.tokens < 1 || flags.chunk < 1 || flags.repeats < 1)
    return invalid("--tokens, --chunk and --repeats must be at least 1");
  ASSIGN(auto options, options_of(flags));
  ASSIGN(auto r, engine::load_runtime(options));
  if (on_gpu(r)) return bench_prefill_gpu(gpu_flags(flags), options, std::move(r));
  ASSIGN(auto runner, engine::DirectRunner::create(r, flags.tokens));
  const auto prompt = random_tokens(flags.tokens, r.config.vocab_size);
  std::vector<double> times;
  for (int i = 0; i <= flags.repeats; ++i) {
    runner->restart();
    const Time begin = SteadyClock().now();
    TRY(runner->prefill(prompt, flags.chunk));
    if (i > 0) times.push_back(seconds(SteadyClock().now() - begin));  // the first run warms up
  }
  const double took = median(times);
  auto groups = models::weight_groups(r.config, r.max_model_len, *r.backend);
  std::erase_if(groups,
                [](const auto& g) { return g.part == "head"; });  // one row of a prompt goes through it
  const double flops = models::flops_per_token(r.config, groups) * flags.tokens;
  const double floor =
      gemm_floor(r, std::min(flags.tokens, flags.chunk)) * flags.tokens / std::min(flags.tokens, flags.chunk);

  print_header(r);
  fmt::print("{:<34}{:>12} (chunks of {})\n", "prompt tokens", flags.tokens, flags.chunk);
  fmt::print("{:<34}{:>12.2f} ms, median of {}\n", "time", took * 1e3, times.size());
  fmt::print("{:<34}{:>12.1f}\n", "tokens/s", flags.tokens / took);
  fmt::print("{:<34}{:>12.1f} GFLOPS (matrix products only)\n", "rate", flops / took / 1e9);
  fmt::print("{:<34}{:>12.2f} ms\n", "floor: oneDNN on the same shapes", floor * 1e3);
  fmt::print("{:<34}{:>11.1f}%\n", "share of oneDNN's rate", 100 * floor / took);
  return write_json(flags.json, {{"bench", "prefill"},
                                 {"tokens", flags.tokens},
                                 {"chunk", flags.chunk},
                                 {"time_ms", took * 1e3},
                                 {"tokens_per_s", flags.tokens / took},
                                 {"gflops", flops / took / 1e9},
                                 {"onednn_floor_ms", floor * 1e3},
                                 {"share", floor / took}});
}

}  // namespace

void add_bench_decode(CLI::App& app, Action& action) {
  auto flags = std::make_shared<BenchFlags>();
  flags->model.add(app);
  app.add_option("--batch", flags->batch, "Sequences")->capture_default_str();
  app.add_option("--context", flags->context, "Tokens that each sequence has already")->capture_default_str();
  app.add_option("--steps", flags->steps, "Steps to time")->capture_default_str();
  app.add_option("--warmup", flags->warmup, "Steps before those")->capture_default_str();
  app.add_option("--ep-slice", flags->ep_slice,
                 "Measure one of so many expert-parallel ranks: its share of the experts, the tokens of all");
  app.add_flag("--enforce-eager,--disable-cuda-graph", flags->eager,
               "On a GPU: launch each kernel from the host");
  app.add_option("--json", flags->json, "Also write the result here");
  app.add_option("--trace", flags->trace, "On a GPU: write the parts of a step here, for Perfetto");
  app.callback([flags, &action] { action = [flags] { return run_decode(*flags); }; });
}

void add_bench_prefill(CLI::App& app, Action& action) {
  auto flags = std::make_shared<BenchFlags>();
  flags->model.add(app);
  app.add_option("--tokens", flags->tokens, "Length of the prompt")->capture_default_str();
  app.add_option("--chunk", flags->chunk, "Tokens of one forward pass")->capture_default_str();
  app.add_option("--repeats", flags->repeats, "Runs to time")->capture_default_str();
  app.add_option("--ep-slice", flags->ep_slice, "As in bench decode");
  app.add_option("--json", flags->json, "Also write the result here");
  app.add_option("--trace", flags->trace, "On a GPU: write the parts of the pass here, for Perfetto");
  app.callback([flags, &action] { action = [flags] { return run_prefill(*flags); }; });
}

}  // namespace trireme::cli
