// How the next token of one request is chosen. Names and meanings follow the OpenAI API and, where it has
// none, vLLM and SGLang.
#pragma once
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "trireme/status.h"

namespace trireme {

struct SamplingParams {
  double temperature = 1.0;         // [0, 2]; 0 is greedy
  double top_p = 1.0;               // (0, 1]
  int top_k = -1;                   // -1 or 0: all; else >= 1
  double min_p = 0.0;               // [0, 1]: share of the best token's probability
  double repetition_penalty = 1.0;  // (0, 10]; over prompt and output
  double presence_penalty = 0.0;    // [-2, 2]; over output
  double frequency_penalty = 0.0;   // [-2, 2]; over output
  std::optional<std::uint64_t> seed;
  std::vector<std::pair<std::int32_t, float>> logit_bias;  // (token, [-100, 100]); at most 1024
  // Log-probabilities of the chosen token and of this many best ones: -1 none, 0 the chosen only, at most 20.
  int logprobs = -1;
  int max_tokens = 16;  // >= 1
  int min_tokens = 0;   // end-of-sequence and stop tokens cannot be chosen before
  bool ignore_eos = false;
  std::vector<std::int32_t> stop_token_ids;  // at most 128
};

// Every bound above, with the parameter's name in the message. `vocab_size` bounds the token ids.
Result<SamplingParams> validated(SamplingParams params, int vocab_size);

}  // namespace trireme
