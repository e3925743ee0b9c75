// The OpenAI API's answers as text: whole ones, and the chunks of a stream.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "server/openai/api_error.h"
#include "server/text_frontend.h"
#include "trireme/engine.h"

namespace trireme::server {

struct Usage {
  i64 prompt_tokens = 0;
  i64 completion_tokens = 0;
  i64 cached_tokens = 0;  // of the prompt
};

// What one choice came to.
struct ChoiceResult {
  std::string text;
  std::string logprobs;  // JSON; empty: null
  std::string_view finish_reason;
};

class ResponseWriter {
 public:
  // `id` and `model` go into every answer.
  ResponseWriter(bool chat, const std::string& id, std::string_view model, i64 created, bool usage_in_chunks);

  // Chunks, each a whole SSE event, appended to `out`.
  void role_chunk(std::string& out, int index) const;  // chat only
  // `logprobs`: JSON, or empty for null.
  void text_chunk(std::string& out, int index, std::string_view text, std::string_view logprobs) const;
  void finish_chunk(std::string& out, int index, std::string_view reason) const;
  void usage_chunk(std::string& out, const Usage& usage) const;
  static void error_event(std::string& out, const ApiError& error);
  static void done(std::string& out);

  std::string whole(std::span<const ChoiceResult> choices, const Usage& usage) const;

 private:
  void begin(std::string& out, int index) const;
  void end(std::string& out, std::string_view logprobs, std::string_view reason) const;

  bool chat_;
  std::string head_;        // of a chunk, up to its choices
  std::string whole_head_;  // of a whole answer, likewise
  bool usage_in_chunks_;
};

// The logprobs of tokens, collected as one JSON object in the form of either API.
class LogprobsWriter {
 public:
  LogprobsWriter(bool chat, const TextFrontend& text, std::size_t first_offset)
      : chat_(chat), text_(&text), offset_(first_offset) {}
  void add(const OutputToken& token);
  bool empty() const { return count_ == 0; }
  // The JSON of what was added since the last take.
  std::string take();

 private:
  bool chat_;
  const TextFrontend* text_;
  int count_ = 0;
  std::size_t offset_;   // into the choice's text, in characters, as the completions API counts
  std::string content_;  // chat
  std::string tokens_, logprobs_, tops_, offsets_;  // completions
};

}  // namespace trireme::server
