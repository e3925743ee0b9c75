// The engine of one group: scheduler, executor and the two threads that join them.
//
// The engine thread owns the scheduler: it takes requests in, plans, commits and hands events out. The
// executor thread owns the device: it carries out plans in order. The engine plans step n+1 while step n
// runs.
#pragma once
#include <memory>
#include <string>

#include "engine/memory.h"
#include "engine/runtime.h"
#include "sched/options.h"
#include "trireme/engine.h"

namespace trireme::engine {

struct EngineOptions {
  RuntimeOptions runtime;
  std::string served_model_name;  // default: the folder's name
  int max_num_seqs = 256;
  int max_num_batched_tokens = 1024;  // a step is a pause in every stream: about 0.1 s of prompt on two cores
  int chunked_prefill_size = 0;  // most prompt tokens of one request in a step; 0: max_num_batched_tokens
  int max_queued_requests = 4096;
  double max_queue_time_s = 0;  // 0: for ever
  sched::SchedulePolicy policy = sched::SchedulePolicy::kFair;
  bool prefix_caching = true;
  i64 kv_cache_bytes =
      0;              // memory for KV; 0: what max_num_seqs full contexts need, at most a quarter of memory
  i64 kv_blocks = 0;  // exact number of blocks instead
  // On a GPU: the share of its memory that may be used (above 0, at most 1), and decode steps as recorded
  // graphs.
  double gpu_memory_utilization = 0.9;
  bool graphs = true;
  i64 graph_max_seqs = 0;  // largest batch with a graph; 0: max_num_seqs
};

// What these options take on a GPU.
Result<MemoryLedger> ledger_for(const EngineOptions& options, const models::ModelConfig& config,
                                Backend& backend, i64 max_model_len, DType kv_dtype, i64 loaded_weights = 0);

// Loads the model and starts the threads. Errors say what to change.
Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options);
// The same over a model that is loaded already (tests).
Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options, Runtime runtime);

// How many KV blocks these options give on a device with so much memory.
Result<i64> kv_blocks_for(const EngineOptions& options, const KvLayout& layout, i64 max_model_len,
                          i64 memory_bytes);

}  // namespace trireme::engine
