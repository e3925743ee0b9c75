// An engine without a model, for tests: every prompt has one fixed continuation, made a token a step by a
// thread of its own; it can be slow, full, hung or broken on demand.
#pragma once
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "base/clock.h"
#include "server/testing/fake_text.h"
#include "trireme/engine.h"

namespace trireme::server {

// What the fake engine generates after a prompt: numbers, counted up from one that depends on the prompt.
inline std::string fake_continuation(const std::vector<TokenId>& prompt, std::size_t tokens) {
  int n = std::accumulate(prompt.begin(), prompt.end(), 0) % 1000;
  std::string out;
  while (out.size() < tokens) out += std::to_string(n++) + " ";
  return out.substr(0, tokens);
}

class FakeEngine final : public Engine {
 public:
  std::atomic<int> step_us{200};
  std::atomic<std::size_t> max_waiting{100000};
  std::atomic<int> eos_after{1 << 30};   // an end-of-sequence token takes the place of this one
  std::atomic<int> fail_after{1 << 30};  // kError after so many tokens
  std::atomic<bool> hung{false};         // no step is made
  std::atomic<double> token_age{0.0};    // as stats() shows it
  std::atomic<int> submitted{0};

  explicit FakeEngine(int max_model_len = 4096) {
    info_ = {"demo", "Fake", "none", "cpu", kFakeVocab, max_model_len, {kFakeEos}, {}};
    thread_ = std::thread([this] { loop(); });
  }
  ~FakeEngine() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  Result<RequestId> submit(Request request, EventSink sink) override {
    const std::lock_guard lock(mutex_);
    if (live_.size() >= max_waiting) return fail(ErrorCode::kResourceExhausted, "the queue is full");
    if (request.prompt.empty()) return invalid("no prompt");
    const auto id = ++last_id_;
    ++submitted;
    last_request = request;
    live_[id] = {std::move(request), std::move(sink), "", 0, false, std::chrono::steady_clock::now()};
    wake_.notify_one();
    return id;
  }
  void cancel(RequestId id) override {
    const std::lock_guard lock(mutex_);
    const auto it = live_.find(id);
    if (it != live_.end()) it->second.cancelled = true;
  }
  const ModelInfo& info() const override { return info_; }
  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats s;
    s.running = s.live_sequences = static_cast<int>(live_.size());
    s.last_token_age_s = token_age;
    s.generation_tokens = tokens_;
    s.kv_blocks_total = 100;
    s.kv_blocks_used = 25;
    return s;
  }
  std::chrono::seconds retry_after() const override { return std::chrono::seconds(3); }
  void clear_prefix_cache() override {}

  int live() const { return stats().live_sequences; }
  Request request_seen() const {
    const std::lock_guard lock(mutex_);
    return last_request;
  }

 private:
  struct Live {
    Request request;
    EventSink sink;
    std::string text;
    int made = 0;
    bool cancelled = false;
    Time began;
  };

  // One step of one request; true when it ended.
  bool step(Live& live, Event& event) {
    event.prompt_tokens = static_cast<int>(live.request.prompt.size());
    event.cached_tokens = event.prompt_tokens / 2;
    if (live.cancelled) return event.finish = FinishReason::kCancelled, true;
    if (live.request.timeout && std::chrono::steady_clock::now() - live.began > *live.request.timeout) {
      return event.finish = FinishReason::kDeadline, true;
    }
    if (hung) return false;
    if (live.made >= fail_after) {
      event.error = Error{ErrorCode::kInternal, "a fault for the test"};
      return event.finish = FinishReason::kError, true;
    }
    if (live.text.empty()) {
      live.text =
          fake_continuation(live.request.prompt, static_cast<std::size_t>(live.request.sampling.max_tokens));
    }
    OutputToken token;
    token.id = static_cast<unsigned char>(live.text[static_cast<std::size_t>(live.made)]);
    const bool eos = live.made >= eos_after && !live.request.sampling.ignore_eos;
    if (eos) token.id = kFakeEos;
    const auto& stops = live.request.sampling.stop_token_ids;
    const bool stopped = eos || std::find(stops.begin(), stops.end(), token.id) != stops.end();
    if (live.request.sampling.logprobs >= 0) {
      token.chosen = TokenLogprob{token.id, -0.5f};
      for (int i = 0; i < live.request.sampling.logprobs; ++i)
        token.top_logprobs.push_back({200 + i, -1.0f - static_cast<float>(i)});
    }
    event.tokens.push_back(token);
    ++tokens_;
    ++live.made;
    if (stopped) {
      event.stop_token = token.id;
      event.finish = FinishReason::kStop;
    } else if (live.made >= live.request.sampling.max_tokens) {
      event.finish = FinishReason::kLength;
    }
    return event.finish != FinishReason::kNone;
  }

  void loop() {
    std::unique_lock lock(mutex_);
    while (!ending_) {
      std::vector<std::pair<EventSink, Event>> out;
      for (auto it = live_.begin(); it != live_.end();) {
        Event event;
        const bool ended = step(it->second, event);
        if (ended || !event.tokens.empty()) out.emplace_back(it->second.sink, std::move(event));
        it = ended ? live_.erase(it) : std::next(it);
      }
      lock.unlock();
      for (auto& [sink, event] : out) sink(std::move(event));
      out.clear();
      lock.lock();
      if (live_.empty())
        wake_.wait(lock, [this] { return ending_ || !live_.empty(); });
      else
        wake_.wait_for(lock, std::chrono::microseconds(step_us.load()), [this] { return ending_; });
    }
  }

  ModelInfo info_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<RequestId, Live> live_;
  Request last_request;
  RequestId last_id_ = 0;
  i64 tokens_ = 0;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace trireme::server
