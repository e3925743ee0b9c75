#include "engine/decode_graphs.h"

#include <algorithm>
#include <cstring>

namespace trireme::engine {
namespace {

enum Array : i64 { kTokens, kPositions, kSlots, kContext, kRowNumbers, kArrays };

}  // namespace

std::vector<i64> graph_sizes(i64 max_seqs) {
  std::vector<i64> sizes;
  for (const i64 n : {1,   2,   4,   8,   16,  24,  32,  48,  64,  80,  96,  112, 128,
                      160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024})
    if (n < max_seqs) sizes.push_back(n);
  sizes.push_back(max_seqs);
  return sizes;
}

DecodeGraphs::DecodeGraphs(const models::Model& model, Backend& backend, std::span<const KvCacheLayer> cache,
                           Stream& stream, const GraphOptions& options)
    : model_(model),
      backend_(backend),
      cache_(cache),
      stream_(stream),
      options_(options),
      max_blocks_(ceil_div(options.max_context, kKvBlockTokens)),
      arena_(backend.device()) {}

Result<std::unique_ptr<DecodeGraphs>> DecodeGraphs::create(const models::Model& model, Backend& backend,
                                                           std::span<const KvCacheLayer> cache,
                                                           Stream& stream, const GraphOptions& options) {
  std::unique_ptr<DecodeGraphs> g(new DecodeGraphs(model, backend, cache, stream, options));
  auto sizes = options.sizes.empty() ? graph_sizes(options.max_seqs) : options.sizes;
  std::sort(sizes.rbegin(), sizes.rend());
  g->largest_ = sizes.front();
  const i64 numbers =
      g->largest_ * (kArrays + g->max_blocks_) + 1;  // q_start has one more than there are rows
  Device& device = backend.device();
  ASSIGN(g->inputs_, device.allocate(numbers * 4));
  ASSIGN(g->staged_, device.allocate_host(numbers * 4));
  auto* const staged = static_cast<i32*>(g->staged_.data());
  std::fill(staged, staged + numbers, 0);
  // The tables come first on the device, so that q_start's extra number has its place at the end of all.
  for (i64 i = 0; i <= g->largest_; ++i)
    staged[g->largest_ * (g->max_blocks_ + kRowNumbers) + i] = static_cast<i32>(i);
  TRY(device.copy_in(g->inputs_.data(), staged, numbers * 4, stream));
  TRY(g->fill({}, g->largest_));
  for (const i64 size : sizes) {
    // Once for real: libraries choose their algorithms, scratch memory and the arena grow to what the size
    // needs.
    if (options.timeline != nullptr) options.timeline->clear();
    TRY(g->forward(size));
    TRY(stream.synchronize());
    g->arena_.reset();
    if (options.timeline != nullptr) options.timeline->clear();
    Recorded recorded;
    ASSIGN(recorded.graph, device.capture(stream, [&]() -> Status {
      ASSIGN(recorded.logits, g->forward(size));
      return {};
    }));
    g->graphs_.emplace(size, std::move(recorded));
  }
  return g;
}

bool DecodeGraphs::covers(std::span<const Slice> slices) const {
  if (static_cast<i64>(slices.size()) > largest_) return false;
  return std::all_of(slices.begin(), slices.end(), [&](const Slice& s) {
    return s.tokens.size() == 1 && s.absorbed && s.logits == Slice::Logits::kLast &&
           s.start < options_.max_context;
  });
}

layers::Batch DecodeGraphs::batch_of(i64 size) const {
  const auto* base = static_cast<const i32*>(inputs_.data());
  const auto n = static_cast<std::size_t>(size);
  const auto array = [&](i64 which) { return base + largest_ * (max_blocks_ + which); };
  layers::Batch b;
  b.tokens = {array(kTokens), n};
  b.positions = {array(kPositions), n};
  b.slots = {array(kSlots), n};
  b.sample_rows = {array(kRowNumbers), n};
  SeqBatch seqs;
  seqs.q_start = {array(kRowNumbers), n + 1};
  seqs.context_len = {array(kContext), n};
  seqs.block_table = {base, n * static_cast<std::size_t>(max_blocks_)};
  seqs.max_blocks = max_blocks_;
  seqs.max_tokens = 1;
  seqs.max_context = options_.max_context;
  b.all = b.absorbed = seqs;
  b.absorbed_rows = size;
  return b;
}

Status DecodeGraphs::fill(std::span<const Slice> slices, i64 size) {
  auto* const staged = static_cast<i32*>(staged_.data());
  auto* const device = static_cast<i32*>(inputs_.data());
  const auto array = [&](i64 which) { return staged + largest_ * (max_blocks_ + which); };
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const Slice& s = slices[i];
    array(kTokens)[i] = s.tokens[0];
    array(kPositions)[i] = static_cast<i32>(s.start);
    array(kSlots)[i] = slot_of(s, s.start);
    array(kContext)[i] = static_cast<i32>(s.start + 1);
    const auto used = static_cast<std::size_t>(s.start / kKvBlockTokens + 1);
    CHECK(s.blocks.size() >= used, "a slice at position {} has {} blocks", s.start, s.blocks.size());
    std::memcpy(staged + static_cast<i64>(i) * max_blocks_, s.blocks.data(), used * 4);
  }
  for (std::size_t i = slices.size(); i < static_cast<std::size_t>(size); ++i) {
    // An empty row: a token that is looked up, no context, and a KV that goes nowhere.
    array(kTokens)[i] = array(kPositions)[i] = array(kContext)[i] = 0;
    array(kSlots)[i] = -1;
  }
  // One copy for the numbers; of each table only what is used.
  const i64 numbers = largest_ * max_blocks_;
  TRY(backend_.device().copy_in(device + numbers, staged + numbers, largest_ * kRowNumbers * 4, stream_));
  if (slices.empty()) return {};
  i64 used = 1;
  for (const Slice& s : slices) used = std::max(used, s.start / kKvBlockTokens + 1);
  return backend_.device().copy_in_rows(device, staged, max_blocks_ * 4, used * 4,
                                        static_cast<i64>(slices.size()), stream_);
}

Result<View> DecodeGraphs::forward(i64 size) {
  arena_.reset();
  const layers::Context context{backend_, stream_, arena_, options_.timeline};
  return model_.forward(context, batch_of(size), cache_);
}

Result<View> DecodeGraphs::run(std::span<const Slice> slices) {
  const auto n = static_cast<i64>(slices.size());
  const auto found = graphs_.lower_bound(n);
  CHECK(found != graphs_.end());
  TRY(fill(slices, found->first));
  TRY(found->second.graph->launch(stream_));
  const View& all = found->second.logits;
  return all.rows(0, n);
}

}  // namespace trireme::engine
