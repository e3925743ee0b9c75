// Decode steps as recorded graphs, one for each size of batch: what a step costs the host is one copy and one
// launch. A smaller batch runs in the next larger graph, its empty rows computing nothing that is kept.
//
// One thread, that of the stream. Made before the first request; nothing is recorded later.
#pragma once
#include <map>
#include <memory>

#include "engine/kv_cache.h"
#include "engine/slice.h"
#include "models/model.h"

namespace trireme::engine {

struct GraphOptions {
  i64 max_seqs = 0;  // largest batch; 0: no graphs
  i64 max_context = 0;
  Timeline* timeline = nullptr;  // recorded into the graphs: for benches
  std::vector<i64> sizes{};      // instead of graph_sizes(max_seqs)
};

// Batches that get a graph: few enough to record in a moment, close enough that little is computed in vain.
std::vector<i64> graph_sizes(i64 max_seqs);

class DecodeGraphs {
 public:
  // Runs each size once, then records it. kResourceExhausted when the workspace does not fit.
  static Result<std::unique_ptr<DecodeGraphs>> create(const models::Model& model, Backend& backend,
                                                      std::span<const KvCacheLayer> cache, Stream& stream,
                                                      const GraphOptions& options);
  // Whether these slices are a decode step that a graph covers.
  bool covers(std::span<const Slice> slices) const;
  // Logits of each slice, in order, [slices, vocab]; valid until the next run. REQUIRES: covers(slices).
  Result<View> run(std::span<const Slice> slices);
  i64 count() const { return static_cast<i64>(graphs_.size()); }
  // Device memory of inputs and activations, which all graphs share.
  i64 workspace_bytes() const { return arena_.reserved_bytes() + inputs_.bytes(); }

 private:
  DecodeGraphs(const models::Model& model, Backend& backend, std::span<const KvCacheLayer> cache,
               Stream& stream, const GraphOptions& options);
  layers::Batch batch_of(i64 size) const;
  Status fill(std::span<const Slice> slices, i64 size);
  Result<View> forward(i64 size);

  struct Recorded {
    std::unique_ptr<Graph> graph;
    View logits;
  };
  const models::Model& model_;
  Backend& backend_;
  std::span<const KvCacheLayer> cache_;
  Stream& stream_;
  const GraphOptions options_;
  const i64 max_blocks_;
  i64 largest_ = 0;
  Arena arena_;
  // Arrays of `largest_` numbers each, at the same places in both: tokens, positions, slots, context lengths,
  // row numbers (written once); then the block tables, [largest_, max_blocks_].
  Buffer inputs_, staged_;
  std::map<i64, Recorded> graphs_;
};

}  // namespace trireme::engine
