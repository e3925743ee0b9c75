// What goes into the scheduler, and what comes out of it.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/types.h"

namespace trireme::sched {

// A sequence: one answer to one request. Numbered from 1 in the order of submission; never used again.
using SeqId = Id<struct SeqTag, u64>;

// n answers to one prompt are n requests with the same prompt, the later ones with fork_of = the first one's
// id.
struct Request {
  // Shared with the executor; never changed, never copied.
  std::shared_ptr<const std::vector<TokenId>> prompt = {};
  i32 max_tokens = 0;  // at least 1; cut to what max_model_len leaves
  i32 min_tokens = 0;  // no stop token ends the answer before it has so many; the sampler masks them as well
  bool ignore_eos = false;
  std::vector<TokenId> eos_token_ids = {};
  std::vector<TokenId> stop_token_ids = {};
  i32 priority = 0;             // higher first
  std::string tenant = {};      // whose share of the machine this uses
  std::string cache_salt = {};  // requests with different salts share no KV block
  Time arrival{};
  std::optional<Time> deadline = {};  // ends with kDeadline at that time, wherever it is
  std::optional<SeqId> fork_of = {};  // waits for that sequence's prompt and copies its last, partial block
  std::shared_ptr<const void> payload = {};  // sampling parameters: handed to the executor unread
};

enum class Finish {
  kNone,    // not yet
  kStop,    // a stop or end-of-sequence token, or the engine's own stop (a stop string)
  kLength,  // max_tokens or max_model_len
  kCancelled,
  kDeadline,  // its deadline or the queue time limit has passed
  kError,     // see Output::error
};

// News of one sequence. The last one of a sequence, and only that, has finish != kNone.
struct Output {
  SeqId seq = {};
  std::vector<TokenId> tokens = {};  // appended to the answer; a stop token that ended it is the last of them
  Finish finish = Finish::kNone;
  std::optional<TokenId> matched_stop = {};
  Error error = {};       // for kError and kDeadline
  i32 cached_tokens = 0;  // prompt tokens that came from the prefix cache
};

}  // namespace trireme::sched
