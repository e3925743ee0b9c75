// What the forms of attention share; see attention.h.
#pragma once
#include "backends/cpu/cpu_device.h"
#include "ops/ops.h"

namespace trireme::cpu {

// Slots of a worker's Scratch.
enum AttentionSlot {
  kSlotQ,
  kSlotScores,
  kSlotWeights,
  kSlotKeys,
  kSlotValues,
  kSlotPart,
  kSlotSum,
  kSlotRows
};

// Where one form of attention finds its queries, keys and values.
class AttentionSource {
 public:
  virtual ~AttentionSource() = default;
  // One query row [dk] as `store` packs it.
  virtual void query(i64 token, i64 head, char* out) const = 0;
  // The keys of tokens [64 block, 64 block + tokens) of a sequence as one panel [dk][64], zeros past
  // `tokens`.
  virtual void keys(int seq, i64 kv_head, i64 block, int tokens, u32* panel, Scratch& scratch) const = 0;
  // Their values as panels [ceil(dv / 64)][64 tokens][64].
  virtual void values(int seq, i64 kv_head, i64 block, int tokens, u32* panels, Scratch& scratch) const = 0;
};

struct AttentionShape {
  i64 heads = 1, kv_heads = 1;
  i64 dk = 0, dv = 0;  // dk even
  bool bf16 = true;    // panels; else float32
  float scale = 1;
  i64 window = 0;
};

void attend(CpuStream& s, const AttentionSource& source, const AttentionShape& shape, const SeqBatch& seqs,
            View out);

// How panels are made of rows, by the type of the rows and of the panels.
struct PanelMaker {
  const Kernels& kernels;
  bool bf16;
  // Columns of keys from rows of the panels' type; `panel` points at the first column's place.
  void keys(const void* rows, i64 stride, int tokens, i64 cols, u32* panel) const;
  void values(const void* rows, i64 stride, int tokens, i64 cols, u32* panels) const;
  void query(const float* x, i64 n, char* out) const;
  i64 query_bytes() const { return bf16 ? kernels.x_bytes : 4; }
};

}  // namespace trireme::cpu
