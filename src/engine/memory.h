// The memory of one rank before anything is loaded: exact where it follows from shapes, measured allowances
// where it depends on the driver. `inspect` prints it and the engine sizes the KV pool from it.
#pragma once
#include "engine/runtime.h"

namespace trireme::engine {

struct MemoryOptions {
  i64 max_num_seqs = 256, max_num_batched_tokens = 1024, max_model_len = 0;
  bool graphs = true;
  i64 graph_max_seqs = 0;  // 0: max_num_seqs
  double utilization = 0.9;
  DType kv_dtype = DType::kBF16;
  i64 ep_slice = 0;
  bool absorb_all = false;
  bool fp8_prefill_attention = false;
  i64 weights = 0;  // where they are loaded already: what they take
};

struct MemoryLedger {
  i64 total = 0;              // of the device
  i64 in_use = 0;             // by the driver and other processes
  i64 weights = 0;            // of which
  i64 redundant_experts = 0;  // are copies of experts (none on one rank)
  i64 prefill_workspace = 0, decode_workspace = 0, scratch = 0;
  i64 graphs = 0, graph_count = 0;
  i64 nccl = 0;     // none on one rank
  i64 reserve = 0;  // left alone: 1 - utilization
  i64 kv = 0;       // the rest
  i64 kv_blocks = 0;
  i64 fixed() const {
    return in_use + weights + prefill_workspace + decode_workspace + scratch + graphs + nccl;
  }
};

// From config and backend alone; `source` gives shapes and types (its matrices' bytes are not read).
// kResourceExhausted when not even one sequence's KV is left, with what to change.
Result<MemoryLedger> memory_ledger(const models::ModelConfig& config, models::WeightSource& source,
                                   Backend& backend, const MemoryOptions& options);

}  // namespace trireme::engine
