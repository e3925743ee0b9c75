#include "engine/executor.h"

#include <cmath>

namespace trireme::engine {

Executor::Executor(const Runtime& runtime, KvCache cache)
    : runtime_(runtime),
      cache_(std::move(cache)),
      runner_(*runtime.model, *runtime.backend, cache_.layers()) {}

StepOutcome Executor::execute(const sched::StepPlan& plan) {
  CHECK(plan.ranks.size() == 1, "this executor is one rank; the plan has {}", plan.ranks.size());
  const Time begin = SteadyClock().now();
  StepOutcome outcome;
  Status done;
  try {
    done = run(plan.ranks[0], outcome);
  } catch (const std::exception& e) {
    // Out of memory; or, in the step after that, a sequence that was lost to it.
    done = fail(ErrorCode::kResourceExhausted, "a step of {} sequences failed: {}",
                plan.ranks[0].slices.size(), e.what());
  }
  if (!done) {
    outcome.result.error = std::move(done).error();
    // What was queued before the failure still reads what the next step writes.
    static_cast<void>(runner_.stream().synchronize());
    // The sequences live on in the executor until the scheduler lets them depart; keep one token each, so
    // that a slice planned ahead still finds its input.
    for (const auto& slice : plan.ranks[0].slices) {
      const auto found = sequences_.find(slice.seq);
      if (found == sequences_.end()) continue;
      auto& seq = found->second;
      const auto known = static_cast<i64>(seq.prompt->size() + seq.output.size());
      if (slice.needs_sample && known == slice.start + slice.count) seq.output.push_back(0);
    }
  }
  outcome.seconds = seconds(SteadyClock().now() - begin);
  return outcome;
}

Status Executor::run(const sched::RankPlan& plan, StepOutcome& outcome) {
  for (const auto& seq : plan.departures) sequences_.erase(seq);
  for (const auto& a : plan.arrivals) {
    Sequence seq;
    seq.prompt = a.prompt;
    seq.payload = std::static_pointer_cast<const SeqPayload>(a.payload);
    sequences_.insert_or_assign(a.seq, std::move(seq));
  }
  for (const auto& slice : plan.slices) {
    auto& blocks = sequences_.at(slice.seq).blocks;
    blocks.resize(static_cast<std::size_t>(slice.table_base));
    for (const auto block : slice.new_blocks) blocks.push_back(block.value);
  }
  if (plan.slices.empty()) return {};

  std::vector<CopyBlock> copies;
  for (const auto& c : plan.copies) copies.push_back({c.src.value, c.dst.value, c.tokens});
  TRY(runner_.copy_blocks(copies));

  std::vector<Slice> slices;
  std::vector<std::size_t> last_of;  // of each planned slice: where its end went
  for (const auto& s : plan.slices) {
    const auto& seq = sequences_.at(s.seq);
    const auto prompt = static_cast<i32>(seq.prompt->size());
    const auto& tokens = s.is_generated ? seq.output : *seq.prompt;
    const auto first = static_cast<std::size_t>(s.is_generated ? s.start - prompt : s.start);
    CHECK(first + static_cast<std::size_t>(s.count) <= tokens.size(),
          "sequence {}: slice [{}, +{}) of {} tokens", s.seq.value, first, s.count, tokens.size());
    append_slices(slices,
                  {.tokens = std::span(tokens).subspan(first, static_cast<std::size_t>(s.count)),
                   .start = s.start,
                   .blocks = seq.blocks,
                   .logits = s.needs_sample ? Slice::Logits::kLast : Slice::Logits::kNone},
                  prompt);
    last_of.push_back(slices.size() - 1);
  }
  ASSIGN(auto logits, runner_.run(slices));
  for (std::size_t i = 0; i < last_of.size(); ++i) logits.first_row[i] = logits.first_row[last_of[i]];
  return sample(plan, logits, outcome);
}

SampleRow Executor::row_for(const Sequence& seq) {
  const auto& p = seq.payload->sampling;
  SampleRow row;
  row.temperature = static_cast<float>(p.temperature);
  row.top_p = static_cast<float>(p.top_p);
  row.min_p = static_cast<float>(p.min_p);
  row.top_k = p.top_k;
  row.repetition_penalty = static_cast<float>(p.repetition_penalty);
  row.presence_penalty = static_cast<float>(p.presence_penalty);
  row.frequency_penalty = static_cast<float>(p.frequency_penalty);
  if (row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0) {
    row.prompt = *seq.prompt;
    row.output = seq.output;
  }
  row.logit_bias = p.logit_bias;
  if (static_cast<int>(seq.output.size()) < p.min_tokens) row.banned = seq.payload->end_tokens;
  row.seed = seq.payload->seed;
  row.position = seq.output.size();
  row.logprobs = p.logprobs;
  return row;
}

Status Executor::sample(const sched::RankPlan& plan, const StepRunner::Output& logits, StepOutcome& outcome) {
  const NamedRange range(runtime_.backend->device(), "sample");
  const i64 vocab = runtime_.config.vocab_size;
  // Logits lie in the order of the runner's rows; the result is in the plan's.
  std::vector<SampleRow> rows(static_cast<std::size_t>(logits.logits.shape.rows()));
  std::vector<Sequence*> owners(rows.size());
  std::vector<std::size_t> order;  // of the plan's sampling slices: their rows
  bool details = false;
  for (std::size_t i = 0; i < plan.slices.size(); ++i) {
    if (!plan.slices[i].needs_sample) continue;
    auto& seq = sequences_.at(plan.slices[i].seq);
    const auto r = static_cast<std::size_t>(logits.first_row[i]);
    rows[r] = row_for(seq);
    owners[r] = &seq;
    order.push_back(r);
    details |= rows[r].logprobs >= 0;
  }
  if (rows.empty()) return {};

  std::vector<SampledToken> sampled(rows.size());
  const auto& ops = runtime_.backend->ops();
  std::vector<std::optional<Error>> errors(rows.size());
  if (!ops.sample({.logits = logits.logits, .rows = rows, .out = sampled}, runner_.stream())) {
    // One row is at fault (not a number, say): find it, so that the others go on.
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const View row = logits.logits.rows(static_cast<i64>(r), 1).reshaped({1, vocab});
      auto one =
          ops.sample({.logits = row, .rows = {&rows[r], 1}, .out = {&sampled[r], 1}}, runner_.stream());
      if (!one) errors[r] = std::move(one).error();
    }
  }
  TRY(runner_.stream().synchronize());

  for (std::size_t i = 0, next = 0; i < plan.slices.size(); ++i) {
    if (!plan.slices[i].needs_sample) continue;
    const std::size_t r = order[next++];
    if (errors[r]) outcome.result.failed.push_back({plan.slices[i].seq, *errors[r]});
    owners[r]->output.push_back(sampled[r].id);
    outcome.result.tokens.push_back(sampled[r].id);
    if (details) outcome.details.push_back(std::move(sampled[r]));
  }
  return {};
}

}  // namespace trireme::engine
