#include "engine/memory.h"

#include <algorithm>

#include "engine/decode_graphs.h"
#include "engine/shape_backend.h"
#include "engine/step_runner.h"

namespace trireme::engine {
namespace {

// Allowances, measured on an H200 (docs/decisions.md): what kernels take beside the arenas (cuBLASLt's and
// the attention's workspaces, sampling), and what the driver keeps for one recorded layer.
constexpr i64 kScratch = i64{320} << 20;
constexpr i64 kGraphLayer = 40 << 10;

template <class T>
In<T> array(i64 n) {
  return {reinterpret_cast<const T*>(std::uintptr_t{4096}), static_cast<std::size_t>(n)};
}

SeqBatch seqs_of(i64 seqs, i64 tokens, i64 context) {
  SeqBatch b;
  b.q_start = array<i32>(seqs + 1);
  b.context_len = array<i32>(seqs);
  b.max_blocks = ceil_div(context, kKvBlockTokens);
  b.block_table = array<i32>(seqs * b.max_blocks);
  b.max_tokens = tokens;
  b.max_context = context;
  return b;
}

struct StepKind {
  i64 tokens, seqs, context;
  bool absorbed;
};

// What the arena holds at most in such a step.
Result<i64> workspace(const models::Model& model, Backend& shapes, const MemoryOptions& o,
                      const StepKind& kind) {
  layers::Batch b;
  b.tokens = b.positions = b.slots = array<i32>(kind.tokens);
  b.sample_rows = array<i32>(std::min(kind.seqs, o.max_num_seqs));
  b.all = seqs_of(kind.seqs, kind.tokens - kind.seqs + 1, kind.context);
  if (kind.absorbed) {
    b.absorbed = b.all;
    b.absorbed_rows = kind.tokens;
  } else {
    layers::Batch::Expanded e;
    e.seqs = b.all;
    e.k_start = array<i32>(kind.seqs + 1);
    e.rows = kind.tokens;
    e.context = std::max(kExpandedContext, kind.context);
    b.expanded.push_back(e);
  }
  const KvLayout layout = model.kv_layout(o.kv_dtype);
  std::vector<KvCacheLayer> cache;
  for (int i = 0; i < layout.layers; ++i) cache.push_back({layout, nullptr, 1});
  Arena arena(shapes.device());
  auto stream = shapes.device().make_stream();
  const layers::Context c{shapes, *stream, arena};
  // The index arrays of the step come first.
  TRY(arena.take(DType::kI32, {4 * kind.tokens + 3 * kind.seqs * (b.all.max_blocks + 2)}));
  TRY(model.forward(c, b, cache));
  return arena.peak_bytes();
}

}  // namespace

Result<MemoryLedger> memory_ledger(const models::ModelConfig& config, models::WeightSource& source,
                                   Backend& backend, const MemoryOptions& o) {
  auto shapes = make_shape_backend(backend);
  const models::ModelOptions model_options{.absorb_all = o.absorb_all,
                                           .max_positions = o.max_model_len,
                                           .ep_slice = o.ep_slice,
                                           .fp8_prefill_attention = o.fp8_prefill_attention};
  ASSIGN(const auto model, models::load_model(config, source, *shapes, model_options));
  MemoryLedger m;
  m.total = backend.device().chip().memory_bytes;
  m.in_use = backend.device().used_at_start();
  m.weights = o.weights > 0 ? o.weights : model->loaded_bytes();

  // A step is all prompt, of one sequence or of many, or all absorbed: whichever takes the most.
  const i64 tokens = o.max_num_batched_tokens, seqs = std::min(o.max_num_seqs, tokens);
  for (const i64 n : {i64{1}, backend.tokens_apart() ? tokens : seqs}) {
    for (const bool absorbed : {false, true}) {
      ASSIGN(const i64 bytes,
             workspace(*model, *shapes, o, {tokens, n, o.max_model_len, absorbed || o.absorb_all}));
      m.prefill_workspace = std::max(m.prefill_workspace, bytes);
    }
  }
  if (o.graphs && backend.device().can_capture()) {
    const i64 most = o.graph_max_seqs > 0 ? std::min(o.graph_max_seqs, o.max_num_seqs) : o.max_num_seqs;
    ASSIGN(m.decode_workspace, workspace(*model, *shapes, o, {most, most, o.max_model_len, true}));
    m.graph_count = static_cast<i64>(graph_sizes(most).size());
    m.graphs = m.graph_count * config.layers * kGraphLayer;
  }
  m.scratch = kScratch;
  m.reserve = static_cast<i64>(static_cast<double>(m.total) * (1 - o.utilization));
  m.kv = std::max<i64>(0, m.total - m.reserve - m.fixed());
  const i64 block = model->kv_layout(o.kv_dtype).block_bytes();
  m.kv_blocks = m.kv / block;
  if (m.kv_blocks < ceil_div(o.max_model_len, kKvBlockTokens)) {
    const auto gib = [](i64 bytes) { return static_cast<double>(bytes) / (1 << 30); };
    return fail(ErrorCode::kResourceExhausted,
                "the GPU has {:.1f} GiB; weights take {:.1f}, workspace and driver {:.1f}, {:.1f} are left "
                "alone, and the "
                "{:.2f} left for KV do not hold one sequence of {} tokens. Lower --max-model-len or "
                "--max-num-batched-tokens, or raise --gpu-memory-utilization (now {})",
                gib(m.total), gib(m.weights), gib(m.fixed() - m.weights), gib(m.reserve), gib(m.kv),
                o.max_model_len, o.utilization);
  }
  m.kv = m.kv_blocks * block;
  return m;
}

}  // namespace trireme::engine
