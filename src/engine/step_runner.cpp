#include "engine/step_runner.h"

#include <algorithm>

namespace trireme::engine {
namespace {

// Where one index array lies within the step's single host array.
struct Part {
  std::size_t begin = 0, size = 0;
};

struct SeqParts {
  Part q_start, context_len, block_table;
  i64 max_tokens = 0, max_context = 0;
};

}  // namespace

void append_slices(std::vector<Slice>& slices, Slice slice, i64 prompt_tokens) {
  const i64 border = absorbed_from(prompt_tokens), end = slice.start + static_cast<i64>(slice.tokens.size());
  if (slice.start < border && border < end) {
    Slice head = slice;
    const auto n = static_cast<std::size_t>(border - slice.start);
    head.tokens = slice.tokens.first(n);
    head.absorbed = false;
    if (head.logits == Slice::Logits::kLast) head.logits = Slice::Logits::kNone;
    slices.push_back(head);
    slice.tokens = slice.tokens.subspan(n);
    slice.start = border;
  }
  slice.absorbed = slice.start >= border;
  slices.push_back(slice);
}

StepRunner::StepRunner(const models::Model& model, Backend& backend, std::span<const KvCacheLayer> cache,
                       i64 expanded_context)
    : model_(model),
      backend_(backend),
      cache_(cache),
      expanded_context_(expanded_context),
      stream_(backend.device().make_stream()),
      arena_(backend.device()) {}

Status StepRunner::record(const GraphOptions& options) {
  if (!backend_.device().can_capture() || options.max_seqs < 1) return {};
  ASSIGN(graphs_, DecodeGraphs::create(model_, backend_, cache_, *stream_, options));
  return {};
}

Result<StepRunner::Output> StepRunner::run(std::span<const Slice> slices) {
  if (!backend_.tokens_apart()) return run_whole(slices);
  // Each token a slice of its own: what a tile of queries shares must not change a bit.
  std::vector<Slice> single;
  std::vector<std::size_t> first, last;
  for (const Slice& s : slices) {
    first.push_back(single.size());
    for (std::size_t t = 0; t < s.tokens.size(); ++t) {
      Slice one = s;
      one.tokens = s.tokens.subspan(t, 1);
      one.start = s.start + static_cast<i64>(t);
      if (s.logits == Slice::Logits::kLast && t + 1 < s.tokens.size()) one.logits = Slice::Logits::kNone;
      single.push_back(one);
    }
    last.push_back(single.size() - 1);
  }
  if (static_cast<i64>(single.size()) > kMostTokensApart)
    return invalid(
        "{} tokens in one step: with --deterministic on a GPU at most {} are possible; use smaller chunks",
        single.size(), kMostTokensApart);
  ASSIGN(auto out, run_whole(single));
  std::vector<i64> rows;
  for (std::size_t i = 0; i < slices.size(); ++i)
    rows.push_back(out.first_row[slices[i].logits == Slice::Logits::kAll ? first[i] : last[i]]);
  out.first_row = std::move(rows);
  return out;
}

Result<StepRunner::Output> StepRunner::run_whole(std::span<const Slice> slices) {
  if (graphs_ && graphs_->covers(slices)) {
    const NamedRange range(backend_.device(), "decode step");
    Output out;
    for (std::size_t i = 0; i < slices.size(); ++i) out.first_row.push_back(static_cast<i64>(i));
    if (timeline_ != nullptr) TRY(timeline_->mark(*stream_, "graph"));
    ASSIGN(out.logits, graphs_->run(slices));
    if (timeline_ != nullptr) TRY(timeline_->mark(*stream_, "between graphs"));
    return out;
  }
  const NamedRange range(backend_.device(), "eager step");
  arena_.reset();
  host_.clear();
  Output out;
  out.first_row.assign(slices.size(), -1);

  std::vector<std::size_t> order(slices.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto middle =
      std::stable_partition(order.begin(), order.end(), [&](std::size_t i) { return slices[i].absorbed; });
  const auto absorbed = static_cast<std::size_t>(middle - order.begin());

  std::size_t max_blocks = 1;
  for (const auto& s : slices) {
    CHECK(!s.tokens.empty());
    const auto needed =
        static_cast<std::size_t>(ceil_div(s.start + static_cast<i64>(s.tokens.size()), kKvBlockTokens));
    CHECK(s.blocks.size() >= needed, "a slice up to position {} has {} blocks",
          s.start + static_cast<i64>(s.tokens.size()), s.blocks.size());
    max_blocks = std::max(max_blocks, needed);
  }

  const auto part = [&](auto&& fill) {
    Part p{host_.size(), 0};
    fill();
    p.size = host_.size() - p.begin;
    return p;
  };
  const auto each_token = [&](auto&& f) {
    for (const auto i : order) {
      for (std::size_t t = 0; t < slices[i].tokens.size(); ++t) f(slices[i], t);
    }
  };
  const Part tokens =
      part([&] { each_token([&](const Slice& s, std::size_t t) { host_.push_back(s.tokens[t]); }); });
  const Part positions = part([&] {
    each_token([&](const Slice& s, std::size_t t) {
      host_.push_back(static_cast<i32>(s.start + static_cast<i64>(t)));
    });
  });
  const Part slots = part([&] {
    each_token(
        [&](const Slice& s, std::size_t t) { host_.push_back(slot_of(s, s.start + static_cast<i64>(t))); });
  });
  const auto sequences = [&](std::size_t begin, std::size_t end) {
    SeqParts p;
    for (std::size_t i = begin; i < end; ++i) {
      const Slice& s = slices[order[i]];
      const auto n = static_cast<i64>(s.tokens.size());
      p.max_tokens = std::max(p.max_tokens, n);
      p.max_context = std::max(p.max_context, s.start + n);
    }
    p.q_start = part([&] {
      i32 row = 0;
      host_.push_back(row);
      for (std::size_t i = begin; i < end; ++i)
        host_.push_back(row += static_cast<i32>(slices[order[i]].tokens.size()));
    });
    p.context_len = part([&] {
      for (std::size_t i = begin; i < end; ++i)
        host_.push_back(
            static_cast<i32>(slices[order[i]].start + static_cast<i64>(slices[order[i]].tokens.size())));
    });
    p.block_table = part([&] {
      for (std::size_t i = begin; i < end; ++i) {
        const auto& blocks = slices[order[i]].blocks;
        for (std::size_t b = 0; b < max_blocks; ++b) host_.push_back(b < blocks.size() ? blocks[b] : 0);
      }
    });
    return p;
  };
  const SeqParts all = sequences(0, order.size());
  const SeqParts absorbed_parts = sequences(0, absorbed);
  layers::Batch batch;
  struct ExpandedParts {
    SeqParts seqs;
    Part k_start;
  };
  std::vector<ExpandedParts> expanded_parts;
  const auto context_of = [&](std::size_t i) {
    return slices[order[i]].start + static_cast<i64>(slices[order[i]].tokens.size());
  };
  for (std::size_t begin = absorbed; begin < order.size();) {
    layers::Batch::Expanded group;
    for (std::size_t i = 0; i < begin; ++i)
      group.first_row += static_cast<i64>(slices[order[i]].tokens.size());
    std::size_t end = begin;
    do {
      group.context += context_of(end);
      group.rows += static_cast<i64>(slices[order[end]].tokens.size());
      ++end;
    } while (end < order.size() && group.context + context_of(end) <= expanded_context_);
    const Part k_start = part([&] {
      i32 row = 0;
      host_.push_back(row);
      for (std::size_t i = begin; i < end; ++i) host_.push_back(row += static_cast<i32>(context_of(i)));
    });
    expanded_parts.push_back({sequences(begin, end), k_start});
    batch.expanded.push_back(group);
    begin = end;
  }
  const Part sample_rows = part([&] {
    i64 row = 0, wanted = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto& s = slices[order[i]];
      const i64 n = static_cast<i64>(s.tokens.size());
      if (s.logits != Slice::Logits::kNone) {
        out.first_row[order[i]] = wanted;
        for (i64 r = s.logits == Slice::Logits::kAll ? row : row + n - 1; r < row + n; ++r, ++wanted)
          host_.push_back(static_cast<i32>(r));
      }
      row += n;
      if (i + 1 == absorbed) batch.absorbed_rows = row;
    }
  });

  ASSIGN(View device_view, arena_.take(DType::kI32, {static_cast<i64>(host_.size())}));
  TRY(backend_.device().copy_in(device_view.mutable_data(), host_.data(), static_cast<i64>(host_.size()) * 4,
                                *stream_));
  const i32* device = device_view.as<i32>();
  const auto on_device = [&](const Part& p) { return In<i32>{device + p.begin, p.size}; };
  const auto batch_of = [&](const SeqParts& p) {
    return SeqBatch{.q_start = on_device(p.q_start),
                    .context_len = on_device(p.context_len),
                    .block_table = on_device(p.block_table),
                    .max_blocks = static_cast<i64>(max_blocks),
                    .max_tokens = p.max_tokens,
                    .max_context = p.max_context};
  };
  batch.tokens = on_device(tokens);
  batch.positions = on_device(positions);
  batch.slots = on_device(slots);
  batch.all = batch_of(all);
  batch.absorbed = batch_of(absorbed_parts);
  for (std::size_t i = 0; i < expanded_parts.size(); ++i) {
    batch.expanded[i].seqs = batch_of(expanded_parts[i].seqs);
    batch.expanded[i].k_start = on_device(expanded_parts[i].k_start);
  }
  batch.sample_rows = on_device(sample_rows);

  const layers::Context context{backend_, *stream_, arena_, timeline_};
  ASSIGN(out.logits, model_.forward(context, batch, cache_));
  return out;
}

Status StepRunner::copy_blocks(std::span<const CopyBlock> copies) {
  if (copies.empty()) return {};
  return backend_.ops().kv_copy({.copies = copies, .layers = cache_}, *stream_);
}

}  // namespace trireme::engine
