#include "server/openai/generation.h"

#include <algorithm>

#include "server/openai/json_text.h"

namespace trireme::server {
namespace {

i64 unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

Generation::Generation(Home home, PreparedRequest prepared, std::string id, Time arrived,
                       std::function<void()> wake)
    : home_(std::move(home)),
      request_(std::move(prepared.request)),
      prompts_(std::move(prepared.prompts)),
      echoes_(std::move(prepared.echoes)),
      writer_(request_.chat, id, home_.model, unix_seconds(), request_.include_usage),
      arrived_(arrived),
      wake_(std::move(wake)) {
  for (const auto& prompt : prompts_) prompt_sizes_.push_back(static_cast<i64>(prompt.size()));
  choices_.resize(prompts_.size() * static_cast<std::size_t>(request_.n));
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    auto& choice = choices_[i];
    choice.text = home_.text.stream(request_.text);
    const std::string_view echo =
        request_.echo ? std::string_view(echoes_[i / static_cast<std::size_t>(request_.n)]) : "";
    choice.piece = echo;
    if (request_.logprobs) choice.logprobs.emplace(request_.chat, home_.text, characters(echo));
  }
}

Generation::~Generation() = default;

ApiResult<void> Generation::submit() {
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const auto n = static_cast<std::size_t>(request_.n);
    Request request;
    request.prompt = i % n == n - 1 ? std::move(prompts_[i / n]) : prompts_[i / n];
    request.sampling = request_.sampling;
    // Choices of one request differ, and the first is what n = 1 would give.
    if (request.sampling.seed) *request.sampling.seed += i % n;
    // Between tenants, who may not even know whose prefixes are cached, one may only step back.
    request.priority = home_.tenant.empty() ? request_.priority : std::min(request_.priority, 0);
    request.tenant = home_.tenant;
    request.cache_salt =
        home_.tenant.empty() ? request_.cache_salt : home_.tenant + '\0' + request_.cache_salt;
    request.timeout = request_.timeout;
    auto id = home_.engine.submit(
        std::move(request), [mailbox = home_.mailbox, self = shared_from_this(), index = static_cast<int>(i)](
                                Event&& event) { mailbox->push(self, index, std::move(event)); });
    if (!id) {
      auto error = api_error(id.error());
      if (error.status == 429)
        error.retry_after_s = static_cast<int>(std::max<i64>(1, home_.engine.retry_after().count()));
      detach();
      return tl::unexpected(std::move(error));
    }
    choices_[i].id = *id;
    ++open_choices_;
    home_.metrics.prompt_tokens.observe(static_cast<double>(prompt_sizes_[i / n]));
    home_.metrics.max_tokens.observe(request_.sampling.max_tokens);
  }
  home_.metrics.choices.observe(static_cast<double>(choices_.size()));
  return {};
}

void Generation::end_all() {
  const Time now = std::chrono::steady_clock::now();
  for (auto& choice : choices_) {
    if (choice.done || !choice.id) continue;
    home_.engine.cancel(*choice.id);
    finish_choice(choice, error_ ? "error" : "abort", now);
  }
  done_ = true;
}

void Generation::detach() {
  wake_ = nullptr;
  end_all();
  for (auto& choice : choices_) choice.text.reset();
}

void Generation::fail(ApiError error) {
  if (done_) return;
  error_ = std::move(error);
  end_all();
  if (stream_open_) {
    ResponseWriter::error_event(output_, *error_);
    ResponseWriter::done(output_);
  }
  if (wake_) wake_();
}

void Generation::finish_choice(Choice& choice, std::string_view reason, Time at) {
  choice.done = true;
  choice.result.finish_reason = reason;
  --open_choices_;
  auto& metrics = home_.metrics;
  metrics.registry.counter(obs::Metric::kRequestsFinished, {reason}).add();
  metrics.generation_tokens.observe(static_cast<double>(choice.tokens));
  metrics.request_latency.observe(seconds(at - arrived_));
}

bool Generation::hidden_stop(const Event& event) const {
  if (event.finish != FinishReason::kStop || !event.stop_token) return false;
  const auto& eos = home_.engine.info().eos_ids;
  const bool is_eos = std::find(eos.begin(), eos.end(), *event.stop_token) != eos.end();
  return is_eos || !request_.text.include_stop;
}

void Generation::take_token(Choice& choice, const OutputToken& token, bool hidden, Time at) {
  auto& metrics = home_.metrics;
  if (choice.tokens++ == 0) {
    metrics.time_to_first_token.observe(seconds(at - arrived_));
    if (first_token_s_ < 0) first_token_s_ = seconds(at - arrived_);
  } else {
    metrics.inter_token_latency.observe(seconds(at - choice.last_token));
  }
  choice.last_token = at;
  if (choice.logprobs) choice.logprobs->add(token);
  if (hidden) return;
  auto piece = choice.text->push(token.id);
  choice.piece += piece.text;
  if (piece.stopped) {
    if (choice.id) home_.engine.cancel(*choice.id);
    finish_choice(choice, "stop", at);
  }
}

void Generation::on_event(int index, Event&& event, Time at) {
  // Events of a choice that was ended from here may still arrive.
  if (done_ || choices_[static_cast<std::size_t>(index)].done) return;
  auto& choice = choices_[static_cast<std::size_t>(index)];
  started_ = true;
  if (choice.prompt_tokens == 0) home_.metrics.queue_time.observe(event.queue_seconds);  // its first event
  choice.prompt_tokens = event.prompt_tokens;
  choice.cached_tokens = std::max(choice.cached_tokens, event.cached_tokens);
  const bool hide_last = hidden_stop(event);
  for (std::size_t i = 0; i < event.tokens.size() && !choice.done; ++i) {
    take_token(choice, event.tokens[i], hide_last && i + 1 == event.tokens.size(), at);
  }
  if (!choice.done && event.finish != FinishReason::kNone) {
    switch (event.finish) {
      case FinishReason::kStop:
      case FinishReason::kLength: {
        // What was held back may still hold a stop string.
        const auto rest = choice.text->flush();
        choice.piece += rest.text;
        finish_choice(choice, rest.stopped || event.finish == FinishReason::kStop ? "stop" : "length", at);
        break;
      }
      case FinishReason::kDeadline:
        finish_choice(choice, "deadline", at);
        return fail({504, "the request's timeout passed before it was complete", "timeout_error", "",
                     "deadline_exceeded", 0});
      case FinishReason::kCancelled:
        finish_choice(choice, "abort", at);
        return fail({503, "the request was cancelled by the server", "server_error", "", "cancelled", 0});
      case FinishReason::kNone:
      case FinishReason::kError:
        finish_choice(choice, "error", at);
        return fail(event.error
                        ? api_error(*event.error)
                        : ApiError{500, "the engine failed", "server_error", "", "internal_error", 0});
    }
  }
  if (request_.stream) {
    if (stream_open_) write_chunks(index, choice);
  } else if (choice.done) {
    choice.result.text = std::move(choice.piece);
    if (choice.logprobs) choice.result.logprobs = choice.logprobs->take();
  }
  if (open_choices_ == 0) {
    done_ = true;
    if (stream_open_) {
      if (request_.include_usage) writer_.usage_chunk(output_, usage());
      ResponseWriter::done(output_);
    }
  }
  if (wake_) wake_();
}

void Generation::write_chunks(int index, Choice& choice) {
  if (!choice.piece.empty() || (choice.logprobs && !choice.logprobs->empty())) {
    writer_.text_chunk(output_, index, choice.piece,
                       choice.logprobs ? choice.logprobs->take() : std::string());
    choice.piece.clear();
  }
  if (choice.done) writer_.finish_chunk(output_, index, choice.result.finish_reason);
}

void Generation::open_stream() {
  stream_open_ = true;
  if (request_.chat) {
    for (std::size_t i = 0; i < choices_.size(); ++i) writer_.role_chunk(output_, static_cast<int>(i));
  }
  // What came before the stream was open.
  for (std::size_t i = 0; i < choices_.size(); ++i) write_chunks(static_cast<int>(i), choices_[i]);
  if (error_) {
    ResponseWriter::error_event(output_, *error_);
  } else if (done_ && request_.include_usage) {
    writer_.usage_chunk(output_, usage());
  }
  if (done_) ResponseWriter::done(output_);
}

std::string Generation::whole_answer() const {
  std::vector<ChoiceResult> results;
  for (const auto& choice : choices_) results.push_back(choice.result);
  return writer_.whole(results, usage());
}

Usage Generation::usage() const {
  Usage out;
  for (const auto size : prompt_sizes_) out.prompt_tokens += size;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    out.completion_tokens += choices_[i].tokens;
    // Later choices of a prompt hit what the first one left; a client paid for the first.
    if (i % static_cast<std::size_t>(request_.n) == 0) out.cached_tokens += choices_[i].cached_tokens;
  }
  return out;
}

}  // namespace trireme::server
