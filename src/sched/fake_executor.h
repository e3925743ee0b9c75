// For tests: an executor whose "KV" of a position is a hash of everything the position depends on (salt,
// every token up to it, the form of attention). It checks, for every slice, the whole context through the
// block table. What it finds wrong is in faults(). Single-threaded.
#pragma once
#include <deque>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "sched/options.h"
#include "sched/plan.h"

namespace trireme::sched {

class FakeExecutor {
 public:
  FakeExecutor(const SchedOptions& options, i32 vocab)
      : options_(options), vocab_(vocab), memory_(static_cast<std::size_t>(options.ranks)) {
    for (auto& rank : memory_) {
      rank.resize(static_cast<std::size_t>(options.num_blocks) *
                  static_cast<std::size_t>(options.block_tokens));
    }
  }

  // Runs a step. fail_step and the sequences in fail leave garbage behind where they should have written.
  StepResult run(const StepPlan& plan, bool fail_step = false, std::span<const SeqId> fail = {}) {
    StepResult result;
    if (fail_step) result.error = Error{ErrorCode::kInternal, "the step failed"};
    std::vector<Read> reads;
    for (std::size_t r = 0; r < plan.ranks.size(); ++r) {
      const RankPlan& rank = plan.ranks[r];
      prepare(rank, r);
      for (const SeqSlice& slice : rank.slices) {
        const bool fails = fail_step || std::ranges::find(fail, slice.seq) != fail.end();
        if (fails && !fail_step) result.failed.push_back({slice.seq, {ErrorCode::kInternal, "it failed"}});
        write(slice, r, fails);
      }
      for (const SeqSlice& slice : rank.slices) {
        const Known& seq = known_.at(slice.seq);
        if (!seq.broken) verify(slice, seq, r);
        reads.push_back({r, slice.seq, seq.table, slice.start + slice.count});
        if (slice.needs_sample) result.tokens.push_back(sample(slice.seq));
      }
    }
    in_flight_.push_back(std::move(reads));
    return result;
  }
  // The oldest step in flight is over.
  void settled() { in_flight_.pop_front(); }
  // Departures of an idle plan.
  void forget(const StepPlan& plan) {
    for (const RankPlan& rank : plan.ranks) drop(rank);
  }

  std::size_t known() const { return known_.size(); }
  const std::vector<std::string>& faults() const { return faults_; }

  // What a request must be answered, whatever else is served beside it.
  static std::vector<TokenId> answer(const std::vector<TokenId>& prompt, const std::string& salt,
                                     std::size_t n, i32 vocab) {
    u64 h = seed(salt);
    for (TokenId t : prompt) h = chain(h, t);
    std::vector<TokenId> out;
    while (out.size() < n) {
      out.push_back(next_token(h, vocab));
      h = chain(h, out.back());
    }
    return out;
  }

 private:
  struct Cell {
    u64 content = 0;
    bool generated = false;
  };
  struct Known {
    std::vector<TokenId> tokens;
    std::vector<u64> content;  // of the KV at each position
    kv::BlockList table;
    std::size_t prompt = 0;
    std::size_t rank = 0;
    bool broken = false;
  };
  struct Read {  // a step in flight reads positions [0, length) through table
    std::size_t rank;
    SeqId seq;
    kv::BlockList table;
    i32 length;
  };

  static u64 seed(const std::string& salt) { return mix64(std::hash<std::string>{}(salt)); }
  static u64 chain(u64 h, TokenId t) { return mix64(h ^ (static_cast<u64>(t) + 0x51ed)); }
  static TokenId next_token(u64 h, i32 vocab) {
    return static_cast<TokenId>(mix64(h ^ 0xabcdef) % static_cast<u64>(vocab));
  }
  static void append(Known& seq, TokenId token) {
    seq.content.push_back(chain(seq.content.empty() ? 0 : seq.content.back(), token));
    seq.tokens.push_back(token);
  }

  template <class... Args>
  void fault(fmt::format_string<Args...> format, Args&&... args) {
    faults_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  void drop(const RankPlan& rank) {
    for (SeqId id : rank.departures) {
      if (known_.erase(id) == 0) fault("sequence {} departs and never arrived", id.value);
    }
  }

  void prepare(const RankPlan& rank, std::size_t r) {
    drop(rank);
    for (const Arrival& arrival : rank.arrivals) {
      Known seq;
      seq.rank = r;
      seq.prompt = arrival.prompt->size();
      u64 h = seed(arrival.payload ? *static_cast<const std::string*>(arrival.payload.get()) : std::string());
      for (TokenId t : *arrival.prompt) {
        seq.content.push_back(h = chain(h, t));
        seq.tokens.push_back(t);
      }
      if (!known_.emplace(arrival.seq, std::move(seq)).second)
        fault("sequence {} arrives twice", arrival.seq.value);
    }
    for (const kv::BlockCopy& copy : rank.copies) {
      if (copy.src == copy.dst || copy.tokens < 1 || copy.tokens >= options_.block_tokens) fault("odd copy");
      for (i32 i = 0; i < copy.tokens; ++i) {
        check_not_read(r, copy.dst, i, SeqId{});
        cell(r, copy.dst, i) = cell(r, copy.src, i);
      }
    }
  }

  void write(const SeqSlice& slice, std::size_t r, bool fails) {
    const auto it = known_.find(slice.seq);
    if (it == known_.end()) return fault("slice of unknown sequence {}", slice.seq.value);
    Known& seq = it->second;
    if (seq.rank != r) fault("sequence {} changed its rank", slice.seq.value);
    if (static_cast<std::size_t>(slice.table_base) > seq.table.size()) fault("table base past the table");
    seq.table.resize(static_cast<std::size_t>(slice.table_base));
    seq.table.insert(seq.table.end(), slice.new_blocks.begin(), slice.new_blocks.end());
    const i32 end = slice.start + slice.count;
    const auto prompt = static_cast<i32>(seq.prompt);
    if (slice.count < 1 || static_cast<std::size_t>(end) > seq.tokens.size()) {
      return fault("sequence {}: slice [{}, {}) of {} tokens", slice.seq.value, slice.start, end,
                   seq.tokens.size());
    }
    if (slice.needs_sample != (static_cast<std::size_t>(end) == seq.tokens.size()))
      fault("wrong needs_sample");
    if (slice.is_generated ? slice.start < prompt : end > prompt) fault("a slice straddles the prompt's end");
    if (end > static_cast<i32>(seq.table.size()) * options_.block_tokens) {
      return fault("sequence {}: no block for position {}", slice.seq.value, end - 1);
    }
    seq.broken |= fails;
    for (i32 p = slice.start; p < end; ++p) {
      const kv::BlockId block = seq.table[static_cast<std::size_t>(p / options_.block_tokens)];
      check_not_read(r, block, p % options_.block_tokens, slice.seq);
      cell(r, block, p % options_.block_tokens) =
          seq.broken ? Cell{} : Cell{seq.content[static_cast<std::size_t>(p)], slice.is_generated};
    }
  }

  void verify(const SeqSlice& slice, const Known& seq, std::size_t r) {
    for (i32 p = 0; p < slice.start + slice.count; ++p) {
      const Cell& c =
          cell(r, seq.table[static_cast<std::size_t>(p / options_.block_tokens)], p % options_.block_tokens);
      const bool generated = static_cast<std::size_t>(p) >= seq.prompt;
      if (c.content == seq.content[static_cast<std::size_t>(p)] &&
          (options_.mix_generated || c.generated == generated)) {
        continue;
      }
      return fault("sequence {}: position {} of [0, {}) reads something else", slice.seq.value, p,
                   slice.start + slice.count);
    }
  }

  // Steps in flight may run beside this one: nobody writes what another sequence reads there.
  void check_not_read(std::size_t r, kv::BlockId block, i32 offset, SeqId writer) {
    for (const auto& step : in_flight_) {
      for (const Read& read : step) {
        if (read.rank != r || read.seq == writer) continue;
        const auto at = std::ranges::find(read.table, block) - read.table.begin();
        if (at == static_cast<std::ptrdiff_t>(read.table.size())) continue;
        if (static_cast<i32>(at) * options_.block_tokens + offset < read.length) {
          fault("sequence {} writes block {} offset {}, which {} reads in a step in flight", writer.value,
                block.value, offset, read.seq.value);
        }
      }
    }
  }

  TokenId sample(SeqId id) {
    Known& seq = known_.at(id);
    const TokenId token = next_token(seq.content.back(), vocab_);
    append(seq, token);
    return token;
  }

  Cell& cell(std::size_t rank, kv::BlockId block, i32 offset) {
    return memory_[rank][static_cast<std::size_t>(block.value * options_.block_tokens + offset)];
  }

  SchedOptions options_;
  i32 vocab_;
  std::vector<std::vector<Cell>> memory_;  // [ranks][blocks * block_tokens]
  std::unordered_map<SeqId, Known> known_;
  std::deque<std::vector<Read>> in_flight_;
  std::vector<std::string> faults_;
};

}  // namespace trireme::sched
