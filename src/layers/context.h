// What every layer is given besides its weights and its input.
#pragma once
#include "ops/ops.h"
#include "tensor/arena.h"

namespace trireme::layers {

struct Context {
  const Backend& backend;
  Stream& stream;
  Arena& arena;
  Timeline* timeline = nullptr;  // notes when each part of a step begins; not on the hot path
  const Ops& ops = backend.ops();
  DType act = backend.act();  // of activations

  void mark(const char* part) const {
    // A mark that could not be made shows in Timeline::read().
    if (timeline != nullptr) static_cast<void>(timeline->mark(stream, part));
  }
  Result<View> take(Shape shape) const { return arena.take(act, shape); }
};

// The tokens of one step, on the device. Rows that MLA computes in its absorbed form come first, then those
// in its expanded form (see mla.h); for other attention the order means nothing.
struct Batch {
  // Expanded slices whose contexts are expanded at once. Several, since that takes much memory.
  struct Expanded {
    SeqBatch seqs;    // q_start from 0
    In<i32> k_start;  // [seqs + 1], see MlaGatherArgs
    i64 first_row = 0, rows = 0;
    i64 context = 0;  // sum of context_len
  };
  In<i32> tokens;                  // [rows]
  In<i32> positions;               // [rows]
  In<i32> slots;                   // [rows]: where each token's KV goes, block * 64 + offset
  SeqBatch all;                    // every sequence slice, q_start over all rows
  SeqBatch absorbed;               // the slices that are absorbed
  std::vector<Expanded> expanded;  // and the others
  i64 absorbed_rows = 0;
  In<i32> sample_rows;  // rows whose logits are wanted, ascending
  i64 rows() const { return static_cast<i64>(tokens.size()); }
};

// Has the backend divide the attention of these sequences, once for all layers. `tokens`: rows of q.
inline Status plan_attention(const Context& c, SeqBatch& seqs, const KvLayout& layout, i64 tokens,
                             int heads) {
  if (c.ops.plan_attention == nullptr || seqs.seqs() == 0) return {};
  PlanAttentionArgs args{.seqs = seqs, .layout = layout, .tokens = tokens, .heads = heads, .plan = nullptr};
  const i64 bytes = c.backend.attention_plan_bytes(args);
  if (bytes == 0) return {};
  ASSIGN(View plan, c.arena.take(DType::kU8, {bytes}));
  args.plan = plan.mutable_data();
  TRY(c.ops.plan_attention(args, c.stream));
  seqs.plan = args.plan;
  return {};
}

}  // namespace trireme::layers
