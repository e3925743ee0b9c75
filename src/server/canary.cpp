#include "server/canary.h"

#include <limits>

namespace trireme::server {
namespace {

using State = Canary::Verdict::State;
// A hung engine is asked again only so often, however often /ready is.
constexpr milliseconds kBelieveFailure{500};

}  // namespace

Canary::Canary(Engine& engine, const TextFrontend& text, milliseconds token_age, milliseconds timeout)
    : engine_(engine), token_age_(token_age), timeout_(timeout) {
  auto ids = text.encode("ready", {});
  if (ids && !ids->empty()) prompt_ = std::move(*ids);
  if (prompt_.empty()) prompt_.push_back(0);
  prompt_.resize(1);
}

Canary::Verdict Canary::begin(Time now) {
  auto probe = std::make_shared<Probe>();
  Request request;
  request.prompt = prompt_;
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 1;
  request.sampling.ignore_eos = true;
  request.priority = std::numeric_limits<int>::max();
  request.tenant = "ready-canary";
  request.timeout = timeout_;
  auto id = engine_.submit(std::move(request), [probe](Event&& event) {
    const std::lock_guard lock(probe->mutex);
    if (probe->verdict.state != State::kPending) return;
    if (!event.tokens.empty()) {
      probe->verdict.state = State::kReady;
    } else if (event.finish != FinishReason::kNone) {
      probe->verdict = {State::kNotReady,
                        event.error ? event.error->message : "a one-token request ended without a token"};
    }
  });
  if (!id) {
    verdict_until_ = now + kBelieveFailure;
    return last_failure_ = {State::kNotReady,
                            "the engine refused a one-token request: " + id.error().message};
  }
  probe_ = std::move(probe);
  probe_id_ = *id;
  probe_began_ = now;
  return {};
}

Canary::Verdict Canary::look() {
  const double age = engine_.stats().last_token_age_s;
  const Time now = std::chrono::steady_clock::now();
  if (age >= 0 && age <= seconds(token_age_)) return {State::kReady, ""};
  const std::lock_guard lock(mutex_);
  if (!probe_) return now < verdict_until_ ? last_failure_ : begin(now);
  Verdict verdict;
  {
    const std::lock_guard probe_lock(probe_->mutex);
    verdict = probe_->verdict;
  }
  if (verdict.state == State::kPending) {
    if (now - probe_began_ < timeout_) return verdict;
    engine_.cancel(probe_id_);
    verdict = {State::kNotReady, fmt::format("the engine made no token in {} ms", timeout_.count())};
  }
  probe_ = nullptr;
  if (verdict.state == State::kNotReady) {
    last_failure_ = verdict;
    verdict_until_ = now + kBelieveFailure;
  }
  return verdict;
}

}  // namespace trireme::server
