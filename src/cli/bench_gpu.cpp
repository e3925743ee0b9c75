#include "cli/bench_gpu.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/bench_parts.h"
#include "cli/bench_tools.h"
#include "engine/direct.h"
#ifdef TRIREME_CUDA
#include "backends/cuda/bench/bench_kernels.h"
#include "backends/cuda/measure.h"
#endif

namespace trireme::cli {
namespace {

Result<models::ChipRates> rates_of(Backend& backend) {
#ifdef TRIREME_CUDA
  ASSIGN(const double bandwidth, cuda::measured_copy_bandwidth(backend));
  return models::ChipRates{
      .bandwidth = bandwidth, .fp8_flops = cuda::kDatasheetFp8, .bf16_flops = cuda::kDatasheetBf16};
#else
  return fail(ErrorCode::kUnsupported, "{} is not a GPU", backend.name());
#endif
}

void print_upload(Backend& backend) {
#ifdef TRIREME_CUDA
  const auto rates = cuda::measured_upload(backend);
  if (!rates) {
    fmt::print("host to GPU not measured: {}\n", rates.error().message);
    return;
  }
  fmt::print("host to GPU {:.1f} GB/s pinned; {:.1f} GB/s by the road of the weights ({:.0f}%)\n",
             rates->pinned / 1e9, rates->weights / 1e9, 100 * rates->weights / rates->pinned);
#else
  static_cast<void>(backend);
#endif
}

void print_header(const engine::Runtime& r, const engine::RuntimeOptions& o, const models::ChipRates& chip) {
  fmt::print("{} on {}, {} SMs, {:.1f} GiB of weights loaded in {:.1f} s ({:.1f} GB/s), KV in {}\n",
             r.config.architecture_name, r.backend->device().chip().name, r.backend->device().chip().units,
             static_cast<double>(r.model->weight_bytes()) / (1 << 30), r.load_seconds,
             static_cast<double>(r.model->weight_bytes()) / r.load_seconds / 1e9, to_string(r.kv_dtype));
  if (o.ep_slice > 1)
    fmt::print(
        "one rank of {}: {} of {} experts, with the tokens that the other ranks would send stood in for\n",
        o.ep_slice, ceil_div(r.config.moe.experts, o.ep_slice), r.config.moe.experts);
  fmt::print(
      "copy bandwidth {:.2f} TB/s (read + write, measured now); peaks {:.0f} / {:.0f} TFLOPS FP8 / BF16 "
      "(datasheet)\n\n",
      chip.bandwidth / 1e12, chip.fp8_flops / 1e12, chip.bf16_flops / 1e12);
}

// One token for every sequence, and the choice of the next.
Status step(engine::DirectRunner& runner, Backend& backend, std::vector<i32>& tokens) {
  ASSIGN(View logits, runner.decode(tokens));
  std::vector<SampleRow> rows(tokens.size());
  std::vector<SampledToken> out(tokens.size());
  TRY(backend.ops().sample({.logits = logits, .rows = rows, .out = out}, runner.stream()));
  for (std::size_t s = 0; s < out.size(); ++s) tokens[s] = out[s].id;
  return {};
}

}  // namespace

Status bench_decode_gpu(const GpuBenchFlags& f, const engine::RuntimeOptions& options, engine::Runtime r) {
  ASSIGN(const auto chip, rates_of(*r.backend));
  const i64 profiled = 3, room = f.context + f.warmup + f.steps + profiled + 1;
  ASSIGN(auto runner, engine::DirectRunner::create(r, room, static_cast<int>(f.batch)));
  TRY(runner->pretend(f.context));
  auto outside = r.backend->device().make_timeline(), inside = r.backend->device().make_timeline();
  if (!f.eager) TRY(runner->record({.sizes = {f.batch}}));

  auto tokens = random_tokens(f.batch, r.config.vocab_size);
  std::vector<double> wall, busy;
  for (i64 i = 0; i < f.warmup + f.steps; ++i) {
    const bool timed = i >= f.warmup;
    outside->clear();
    if (timed && !f.eager) runner->set_timeline(outside.get());
    const Time begin = SteadyClock().now();
    TRY(step(*runner, *r.backend, tokens));
    if (!timed) continue;
    wall.push_back(seconds(SteadyClock().now() - begin));
    if (f.eager) continue;
    ASSIGN(const auto spans, outside->read());
    busy.push_back(spans[0].seconds);
  }
  // The same steps with every part marked; the marks themselves take a little of the time.
  runner->set_timeline(f.eager ? inside.get() : nullptr);
  if (!f.eager) TRY(runner->record({.timeline = inside.get(), .sizes = {f.batch}}));
  for (i64 i = 0; i < profiled; ++i) {
    if (f.eager) inside->clear();
    TRY(step(*runner, *r.backend, tokens));
  }
  ASSIGN(const auto spans, inside->read());

  const KvLayout kv = r.model->kv_layout(r.kv_dtype);
  const auto costs = models::step_cost(r.config, {.tokens = f.batch,
                                                  .context = f.context + f.warmup + f.steps,
                                                  .sequences = f.batch,
                                                  .sampled = f.batch,
                                                  .ep_slice = std::max<i64>(1, options.ep_slice),
                                                  .fp8 = options.fp8_activations,
                                                  .kv_token_bytes = kv.token_bytes(),
                                                  .fp8_cache = kv.dtype == DType::kF8E4M3});
  const auto rows = part_rows(spans, costs, chip);
  const double took = median(wall), gpu = f.eager ? took : median(busy);
  print_header(r, options, chip);
  print_upload(*r.backend);
  fmt::print("{:<34}{:>12}\n{:<34}{:>12}\n", "batch", f.batch, "context", f.context);
  fmt::print("{:<34}{:>12.3f} ms (best {:.3f}, {} steps)\n", "time per step, median", took * 1e3,
             *std::min_element(wall.begin(), wall.end()) * 1e3, wall.size());
  fmt::print("{:<34}{:>12.0f}\n", "tokens/s", static_cast<double>(f.batch) / took);
  if (!f.eager) {
    fmt::print("{:<34}{:>12.3f} ms\n", "the recorded step on the GPU", gpu * 1e3);
    fmt::print("{:<34}{:>11.2f}% (inputs, sampling, and the host between steps)\n", "outside it",
               100 * (took - gpu) / took);
  }
  fmt::print("\n");
  print_parts(rows);
  TRY(write_trace(f.trace, spans));
  return write_json(f.json, {{"bench", "decode"},
                             {"device", r.backend->device().chip().name},
                             {"batch", f.batch},
                             {"context", f.context},
                             {"ep_slice", options.ep_slice},
                             {"step_ms", took * 1e3},
                             {"graph_ms", gpu * 1e3},
                             {"tokens_per_s", static_cast<double>(f.batch) / took},
                             {"parts", parts_json(rows)}});
}

Status bench_prefill_gpu(const GpuBenchFlags& f, const engine::RuntimeOptions& options, engine::Runtime r) {
  ASSIGN(const auto chip, rates_of(*r.backend));
  ASSIGN(auto runner, engine::DirectRunner::create(r, f.tokens));
  const auto prompt = random_tokens(f.tokens, r.config.vocab_size);
  auto timeline = r.backend->device().make_timeline();
  std::vector<double> wall;
  for (i64 i = 0; i <= f.repeats; ++i) {
    runner->restart();
    const Time begin = SteadyClock().now();
    TRY(runner->prefill(prompt, f.chunk));
    if (i > 0) wall.push_back(seconds(SteadyClock().now() - begin));  // the first run warms up
  }
  runner->set_timeline(timeline.get());
  runner->restart();
  TRY(runner->prefill(prompt, f.chunk));
  ASSIGN(const auto spans, timeline->read());
  const KvLayout kv = r.model->kv_layout(r.kv_dtype);
  std::vector<models::PartCost> costs;
  if (f.chunk >= f.tokens)
    costs = models::step_cost(r.config, {.tokens = f.tokens,
                                         .context = f.tokens,
                                         .sequences = 1,
                                         .sampled = 1,
                                         .ep_slice = std::max<i64>(1, options.ep_slice),
                                         .fp8 = options.fp8_activations,
                                         .kv_token_bytes = kv.token_bytes(),
                                         .fp8_expanded = options.fp8_prefill_attention,
                                         .absorbed = false});
  const auto rows = part_rows(spans, costs, chip);
  const double took = median(wall);
  print_header(r, options, chip);
  fmt::print("{:<34}{:>12} (chunks of {})\n", "prompt tokens", f.tokens, f.chunk);
  fmt::print("{:<34}{:>12.2f} ms, median of {}\n", "time", took * 1e3, wall.size());
  fmt::print("{:<34}{:>12.0f}\n\n", "tokens/s", static_cast<double>(f.tokens) / took);
  print_parts(rows);
  TRY(write_trace(f.trace, spans));
  return write_json(f.json, {{"bench", "prefill"},
                             {"device", r.backend->device().chip().name},
                             {"tokens", f.tokens},
                             {"chunk", f.chunk},
                             {"time_ms", took * 1e3},
                             {"tokens_per_s", static_cast<double>(f.tokens) / took},
                             {"parts", parts_json(rows)}});
}

}  // namespace trireme::cli
