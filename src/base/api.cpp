// The small functions that include/trireme declares: every room that sees those headers can link them.
#include <cmath>

#include "trireme/engine.h"

namespace trireme {

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      return "error";
  }
  return "unknown";
}

namespace {

// NaN is inside no interval.
Status within(const char* name, double value, double low, double high, bool low_open = false) {
  if ((low_open ? value > low : value >= low) && value <= high) return {};
  return invalid("{} is {}; it must be {} {} and at most {}", name, value, low_open ? "above" : "at least",
                 low, high);
}

Status token_in(const char* name, std::int32_t token, int vocab_size) {
  if (token >= 0 && token < vocab_size) return {};
  return invalid("{} names token {}; this model's tokens are 0 to {}", name, token, vocab_size - 1);
}

}  // namespace

Result<SamplingParams> validated(SamplingParams p, int vocab_size) {
  const auto check = [&]() -> Status {
    if (auto s = within("temperature", p.temperature, 0, 2); !s) return s;
    if (auto s = within("top_p", p.top_p, 0, 1, true); !s) return s;
    if (auto s = within("min_p", p.min_p, 0, 1); !s) return s;
    if (p.top_k < -1) return invalid("top_k is {}; it must be -1 (all) or at least 0", p.top_k);
    if (auto s = within("repetition_penalty", p.repetition_penalty, 0, 10, true); !s) return s;
    if (auto s = within("presence_penalty", p.presence_penalty, -2, 2); !s) return s;
    if (auto s = within("frequency_penalty", p.frequency_penalty, -2, 2); !s) return s;
    if (p.logprobs < -1 || p.logprobs > 20) return invalid("logprobs is {}; it must be 0 to 20", p.logprobs);
    if (p.max_tokens < 1) return invalid("max_tokens is {}; it must be at least 1", p.max_tokens);
    if (p.min_tokens < 0) return invalid("min_tokens is {}; it must be at least 0", p.min_tokens);
    if (p.min_tokens > p.max_tokens)
      return invalid("min_tokens is {}; it must be at most max_tokens, {}", p.min_tokens, p.max_tokens);
    if (p.logit_bias.size() > 1024)
      return invalid("logit_bias has {} entries; at most 1024 are allowed", p.logit_bias.size());
    for (const auto& [token, bias] : p.logit_bias) {
      if (auto s = token_in("logit_bias", token, vocab_size); !s) return s;
      if (auto s = within("logit_bias", bias, -100, 100); !s) return s;
    }
    if (p.stop_token_ids.size() > 128)
      return invalid("stop_token_ids has {} entries; at most 128 are allowed", p.stop_token_ids.size());
    for (const auto token : p.stop_token_ids) {
      if (auto s = token_in("stop_token_ids", token, vocab_size); !s) return s;
    }
    return {};
  };
  if (auto s = check(); !s) return tl::unexpected(std::move(s).error());
  return p;
}

}  // namespace trireme
