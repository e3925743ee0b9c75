#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <future>
#include <mutex>
#include <random>
#include <thread>

#include "base/log.h"
#include "base/rng.h"
#include "engine/executor.h"
#include "sched/scheduler.h"

namespace trireme::engine {
namespace {

FinishReason reason_of(sched::Finish f) {
  switch (f) {
    case sched::Finish::kNone:
      return FinishReason::kNone;
    case sched::Finish::kStop:
      return FinishReason::kStop;
    case sched::Finish::kLength:
      return FinishReason::kLength;
    case sched::Finish::kCancelled:
      return FinishReason::kCancelled;
    case sched::Finish::kDeadline:
      return FinishReason::kDeadline;
    case sched::Finish::kError:
      return FinishReason::kError;
  }
  return FinishReason::kError;
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(std::unique_ptr<Runtime> runtime, ModelInfo info, const sched::SchedOptions& options,
             std::unique_ptr<Executor> executor)
      : runtime_(std::move(runtime)),
        info_(std::move(info)),
        scheduler_(options),
        executor_(std::move(executor)),
        seeds_(std::random_device{}()) {
    publish();
    executor_thread_ = std::thread([this] { execute_loop(); });
    engine_thread_ = std::thread([this] { engine_loop(); });
  }

  ~EngineImpl() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_engine_.notify_one();
    engine_thread_.join();
    {
      std::lock_guard lock(mutex_);
      executor_stop_ = true;
    }
    wake_executor_.notify_one();
    executor_thread_.join();
  }

  Result<RequestId> submit(Request request, EventSink sink) override {
    ASSIGN(auto sampling, validated(std::move(request.sampling), info_.vocab_size));
    auto payload = std::make_shared<SeqPayload>();
    sched::Request r;
    r.prompt = std::make_shared<const std::vector<TokenId>>(std::move(request.prompt));
    r.max_tokens = sampling.max_tokens;
    r.min_tokens = sampling.min_tokens;
    r.ignore_eos = sampling.ignore_eos;
    r.eos_token_ids = info_.eos_ids;
    r.stop_token_ids = sampling.stop_token_ids;
    r.priority = request.priority;
    r.tenant = std::move(request.tenant);
    r.cache_salt = std::move(request.cache_salt);
    r.arrival = clock_.now();
    if (request.timeout) r.deadline = r.arrival + *request.timeout;
    payload->end_tokens = sampling.stop_token_ids;
    if (!sampling.ignore_eos)
      payload->end_tokens.insert(payload->end_tokens.end(), info_.eos_ids.begin(), info_.eos_ids.end());
    payload->seed = sampling.seed ? *sampling.seed : mix64(seeds_.fetch_add(1));
    payload->sampling = std::move(sampling);
    r.payload = payload;

    Command command;
    command.request = std::move(r);
    command.sink = std::move(sink);
    auto answer = command.answer.get_future();
    if (!post(std::move(command))) return fail(ErrorCode::kUnavailable, "the engine is shutting down");
    return answer.get();
  }

  void cancel(RequestId id) override {
    Command command;
    command.cancel = sched::SeqId{id};
    post(std::move(command));
  }

  void clear_prefix_cache() override {
    Command command;
    command.clear_cache = true;
    post(std::move(command));
  }

  const ModelInfo& info() const override { return info_; }

  EngineStats stats() const override {
    std::lock_guard lock(stats_mutex_);
    EngineStats s = stats_;
    if (last_token_) s.last_token_age_s = seconds(clock_.now() - *last_token_);
    return s;
  }

  std::chrono::seconds retry_after() const override {
    std::lock_guard lock(stats_mutex_);
    return retry_after_;
  }

 private:
  struct Command {
    std::optional<sched::Request> request;
    EventSink sink;
    std::promise<Result<RequestId>> answer;
    std::optional<sched::SeqId> cancel;
    bool clear_cache = false;
  };
  struct Live {
    EventSink sink;
    int prompt_tokens = 0;
    bool logprobs = false;
    Time submitted{};
    std::optional<Time> started;  // its first step was planned
  };
  struct Finished {
    sched::StepPlan plan;
    StepOutcome outcome;
  };

  bool post(Command command) {
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return false;
      commands_.push_back(std::move(command));
    }
    wake_engine_.notify_one();
    return true;
  }

  void engine_loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      std::deque<Command> commands = std::exchange(commands_, {});
      std::optional<Finished> finished;
      if (!finished_.empty()) {
        finished = std::move(finished_.front());
        finished_.pop_front();
      }
      const bool stopping = stopping_;
      lock.unlock();

      for (auto& c : commands) apply(c);
      if (stopping) {
        for (const auto& [seq, live] : live_) scheduler_.cancel(seq);
      }
      if (finished) {
        --uncommitted_;
        ++totals_.steps;
        auto outputs = scheduler_.commit(finished->plan, finished->outcome.result);
        note_lost(finished->outcome.result.error);
        deliver(std::move(outputs), &*finished);
      }
      scheduler_.expire(clock_.now());  // also while two steps are under way, when nothing is planned
      while (uncommitted_ < 2 && scheduler_.has_work()) {
        auto plan = scheduler_.plan(clock_.now());
        note_arrivals(plan);
        const bool idle = plan.is_idle();
        if (!idle) ++uncommitted_;
        const bool departures = std::any_of(plan.ranks.begin(), plan.ranks.end(),
                                            [](const auto& r) { return !r.departures.empty(); });
        if (!idle || departures) send(std::move(plan));
        if (idle) break;
      }
      deliver(scheduler_.take_outputs(), nullptr);
      publish();

      lock.lock();
      if (stopping_ && live_.empty() && uncommitted_ == 0 && commands_.empty()) return;
      const auto ready = [&] { return !commands_.empty() || !finished_.empty() || (stopping_ && !stopping); };
      const auto deadline = scheduler_.next_deadline();
      if (deadline) {
        wake_engine_.wait_until(lock, *deadline, ready);
      } else {
        wake_engine_.wait(lock, ready);
      }
    }
  }

  // A device that is gone stays gone: everything under way ends, and nothing new is taken.
  void note_lost(const std::optional<Error>& error) {
    if (!error || error->code != ErrorCode::kUnavailable || lost_) return;
    lost_ = *error;
    publish();  // before any request hears of it: whoever then asks how the engine is, is told the same
    spdlog::critical("the device is lost: {}. Every request ends now; restart the server", error->message);
    for (const auto& [seq, live] : live_) scheduler_.cancel(seq);
  }

  void execute_loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_executor_.wait(lock, [&] { return !plans_.empty() || executor_stop_; });
      if (plans_.empty()) return;
      sched::StepPlan plan = std::move(plans_.front());
      plans_.pop_front();
      lock.unlock();
      StepOutcome outcome = executor_->execute(plan);
      lock.lock();
      if (plan.is_idle()) continue;  // departures only: nobody waits for it
      finished_.push_back({std::move(plan), std::move(outcome)});
      wake_engine_.notify_one();
    }
  }

  void note_arrivals(const sched::StepPlan& plan) {
    const Time now = clock_.now();
    for (const auto& rank : plan.ranks) {
      for (const auto& a : rank.arrivals) {
        const auto live = live_.find(a.seq);
        if (live != live_.end() && !live->second.started) live->second.started = now;
      }
    }
  }

  void send(sched::StepPlan plan) {
    {
      std::lock_guard lock(mutex_);
      plans_.push_back(std::move(plan));
    }
    wake_executor_.notify_one();
  }

  void apply(Command& c) {
    if (c.clear_cache) scheduler_.clear_prefix_cache();
    if (c.cancel) scheduler_.cancel(*c.cancel);
    if (!c.request) return;
    if (lost_) {
      c.answer.set_value(fail(ErrorCode::kUnavailable,
                              "the device is lost ({}); the server must be restarted", lost_->message));
      return;
    }
    const int prompt_tokens = static_cast<int>(c.request->prompt->size());
    const bool logprobs = static_cast<const SeqPayload*>(c.request->payload.get())->sampling.logprobs >= 0;
    auto id = scheduler_.submit(std::move(*c.request));
    if (id) {
      live_[*id] = {std::move(c.sink), prompt_tokens, logprobs, clock_.now(), {}};
      ++totals_.requests_submitted;
      c.answer.set_value(RequestId{id->value});
    } else {
      ++totals_.requests_rejected;
      c.answer.set_value(tl::unexpected(std::move(id).error()));
    }
  }

  void deliver(std::vector<sched::Output> outputs, const Finished* finished) {
    if (outputs.empty()) return;
    // The step's sampled tokens by sequence, for those that want log-probabilities.
    std::unordered_map<sched::SeqId, const SampledToken*> details;
    if (finished && !finished->outcome.details.empty()) {
      std::size_t next = 0;
      for (const auto& slice : finished->plan.ranks[0].slices) {
        if (slice.needs_sample) details[slice.seq] = &finished->outcome.details[next++];
      }
    }
    for (auto& o : outputs) {
      const auto live = live_.find(o.seq);
      CHECK(live != live_.end(), "news of sequence {}, which nobody waits for", o.seq.value);
      Event e;
      for (const TokenId id : o.tokens) {
        OutputToken token{.id = id, .chosen = {}, .top_logprobs = {}};
        const auto detail = live->second.logprobs ? details.find(o.seq) : details.end();
        if (detail != details.end() && !detail->second->top.empty()) {
          for (const auto& [top, logprob] : detail->second->top) token.top_logprobs.push_back({top, logprob});
        }
        if (detail != details.end()) token.chosen = TokenLogprob{id, detail->second->logprob};
        e.tokens.push_back(std::move(token));
      }
      totals_.generation_tokens += static_cast<i64>(o.tokens.size());
      if (!o.tokens.empty()) last_seen_ = clock_.now();
      e.finish = reason_of(o.finish);
      e.stop_token = o.matched_stop;
      e.prompt_tokens = live->second.prompt_tokens;
      e.cached_tokens = o.cached_tokens;
      e.queue_seconds = seconds(live->second.started.value_or(clock_.now()) - live->second.submitted);
      if (o.finish == sched::Finish::kError || o.finish == sched::Finish::kDeadline) e.error = o.error;
      if (o.finish == sched::Finish::kCancelled && lost_) e.finish = FinishReason::kError, e.error = lost_;
      const bool last = o.finish != sched::Finish::kNone;
      if (last) {
        ++totals_.requests_finished[static_cast<int>(e.finish)];
        totals_.prompt_tokens += live->second.prompt_tokens;
        totals_.cached_prompt_tokens += o.cached_tokens;
        if (e.finish == FinishReason::kError)
          spdlog::error("request {} ended with an error: {}", o.seq.value, one_line(o.error.message));
      }
      EventSink sink = last ? std::move(live->second.sink) : live->second.sink;
      if (last) live_.erase(live);
      sink(std::move(e));
    }
  }

  void publish() {
    const auto s = scheduler_.stats();
    std::lock_guard lock(stats_mutex_);
    stats_ = totals_;
    if (lost_) stats_.device_error = lost_->message;
    stats_.running = s.running;
    stats_.waiting = s.waiting;
    stats_.kv_blocks_total = s.kv_blocks_total;
    stats_.kv_blocks_used = s.kv_blocks_used;
    stats_.kv_blocks_cached = s.kv_blocks_cached;
    stats_.prefix_queries = s.cache_query_tokens;
    stats_.prefix_hits = s.cache_hit_tokens;
    stats_.preemptions = s.preemptions;
    stats_.live_sequences = static_cast<int>(live_.size()) + uncommitted_;
    last_token_ = last_seen_;
    retry_after_ = std::chrono::ceil<std::chrono::seconds>(scheduler_.retry_after());
  }

  // Owned by the engine thread.
  SteadyClock clock_;
  std::unique_ptr<Runtime> runtime_;
  ModelInfo info_;
  sched::Scheduler scheduler_;
  std::unordered_map<sched::SeqId, Live> live_;
  EngineStats totals_;
  std::optional<Time> last_seen_;
  std::optional<Error> lost_;
  int uncommitted_ = 0;
  // Owned by the executor thread.
  std::unique_ptr<Executor> executor_;

  std::mutex mutex_;  // guards the queues between the threads, below
  std::condition_variable wake_engine_, wake_executor_;
  std::deque<Command> commands_;
  std::deque<sched::StepPlan> plans_;
  std::deque<Finished> finished_;
  bool stopping_ = false, executor_stop_ = false;

  mutable std::mutex stats_mutex_;  // guards the published view, below
  EngineStats stats_;
  std::optional<Time> last_token_;
  std::chrono::seconds retry_after_{1};

  std::atomic<u64> seeds_;
  std::thread engine_thread_, executor_thread_;
};

std::string base_name(const std::string& path) {
  auto p = std::filesystem::path(path).lexically_normal();
  if (!p.has_filename()) p = p.parent_path();
  return p.filename().empty() ? "model" : p.filename().string();
}

}  // namespace

namespace {
constexpr i64 kMostBlocks = (i64{1} << 31) / kKvBlockTokens - 1;  // slots are numbered with 32 bits
}

Result<i64> kv_blocks_for(const EngineOptions& options, const KvLayout& layout, i64 max_model_len,
                          i64 memory_bytes) {
  if (options.max_num_seqs < 1) return invalid("--max-num-seqs {}: must be at least 1", options.max_num_seqs);
  if (options.kv_blocks > kMostBlocks) {
    return invalid("--num-kv-blocks {}: at most {} are possible", options.kv_blocks, kMostBlocks);
  }
  if (options.kv_blocks > 0) return options.kv_blocks;
  const i64 wanted = ceil_div(max_model_len, kKvBlockTokens) * options.max_num_seqs;
  const i64 bytes = options.kv_cache_bytes > 0 ? options.kv_cache_bytes : memory_bytes / 4;
  const i64 blocks = std::min({wanted, bytes / layout.block_bytes(), kMostBlocks});
  if (blocks < 1) {
    return invalid("{} bytes of KV cache are less than one block of {} bytes; raise --kv-cache-memory-bytes",
                   bytes, layout.block_bytes());
  }
  return blocks;
}

Result<MemoryLedger> ledger_for(const EngineOptions& options, const models::ModelConfig& config,
                                Backend& backend, i64 max_model_len, DType kv_dtype, i64 loaded_weights) {
  if (options.max_num_seqs < 1) return invalid("--max-num-seqs {}: must be at least 1", options.max_num_seqs);
  if (options.max_num_batched_tokens < 1)
    return invalid("--max-num-batched-tokens {}: must be at least 1", options.max_num_batched_tokens);
  const auto source = models::shape_source(config);
  return memory_ledger(config, *source, backend,
                       {.max_num_seqs = options.max_num_seqs,
                        .max_num_batched_tokens = options.max_num_batched_tokens,
                        .max_model_len = max_model_len,
                        .graphs = options.graphs,
                        .graph_max_seqs = options.graph_max_seqs,
                        .utilization = options.gpu_memory_utilization,
                        .kv_dtype = kv_dtype,
                        .ep_slice = options.runtime.ep_slice,
                        .absorb_all = options.runtime.deterministic,
                        .fp8_prefill_attention = options.runtime.fp8_prefill_attention,
                        .weights = loaded_weights});
}

Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options, Runtime given) {
  auto owned = std::make_unique<Runtime>(std::move(given));
  Runtime& runtime = *owned;
  Device& device = runtime.backend->device();
  if (runtime.backend->tokens_apart() && options.max_num_batched_tokens > kMostTokensApart)
    return invalid(
        "--max-num-batched-tokens {}: with --deterministic on a GPU a step holds at most {} tokens",
        options.max_num_batched_tokens, kMostTokensApart);
  const KvLayout layout = runtime.model->kv_layout(runtime.kv_dtype);
  std::optional<MemoryLedger> ledger;
  i64 blocks = 0;
  if (device.host_readable() || options.kv_blocks > 0 || options.kv_cache_bytes > 0) {
    ASSIGN(blocks, kv_blocks_for(options, layout, runtime.max_model_len, device.chip().memory_bytes));
  } else {
    ASSIGN(ledger, ledger_for(options, runtime.config, *runtime.backend, runtime.max_model_len,
                              runtime.kv_dtype, runtime.model->loaded_bytes()));
    blocks = std::min<i64>(ledger->kv_blocks, kMostBlocks);
  }
  sched::SchedOptions s;
  s.num_blocks = static_cast<i32>(blocks);
  s.block_tokens = static_cast<i32>(kKvBlockTokens);
  s.max_model_len = static_cast<i32>(runtime.max_model_len);
  s.max_num_batched_tokens = options.max_num_batched_tokens;
  s.max_num_seqs = options.max_num_seqs;
  s.chunked_prefill_size = options.chunked_prefill_size;
  s.max_queued_requests = options.max_queued_requests;
  s.max_queue_time = from_seconds(options.max_queue_time_s);
  s.vocab_size = static_cast<i32>(runtime.config.vocab_size);
  s.policy = options.policy;
  s.prefix_caching = options.prefix_caching;
  // In deterministic mode both kinds of token are computed in the same form, so their blocks may mix.
  s.mix_generated = true;
  s.model_id = options.runtime.model + "/" + to_string(runtime.kv_dtype);
  ASSIGN(s, sched::validated(s));

  ModelInfo info;
  info.name =
      options.served_model_name.empty()
          ? base_name(options.runtime.model.empty() ? options.runtime.model_config : options.runtime.model)
          : options.served_model_name;
  info.architecture = runtime.config.architecture_name;
  info.dtype = runtime.config.fp8 ? "fp8" : runtime.config.torch_dtype;
  info.device = runtime.backend->name();
  info.vocab_size = static_cast<int>(runtime.config.vocab_size);
  info.max_model_len = static_cast<int>(runtime.max_model_len);
  info.eos_ids = runtime.config.eos_token_ids;

  const Time begin = SteadyClock().now();
  ASSIGN(auto cache, KvCache::create(layout, blocks, device));
  spdlog::info("KV cache: {} blocks of 64 tokens, {:.1f} MiB", blocks,
               static_cast<double>(cache.bytes()) / (1 << 20));
  auto executor = std::make_unique<Executor>(runtime, std::move(cache));
  const Time allocated = SteadyClock().now();
  if (ledger) TRY(executor->reserve(ledger->prefill_workspace));
  if (options.graphs) {
    const i64 most = options.graph_max_seqs > 0 ? std::min<i64>(options.graph_max_seqs, options.max_num_seqs)
                                                : options.max_num_seqs;
    TRY(executor->record({.max_seqs = most, .max_context = runtime.max_model_len}));
  }
  const Time recorded = SteadyClock().now();
  info.startup_seconds = {{"load", runtime.load_seconds},
                          {"kv_cache", seconds(allocated - begin)},
                          {"graphs", seconds(recorded - allocated)}};
  if (executor->graphs() > 0)
    spdlog::info("recorded {} decode graphs in {:.2f} s", executor->graphs(), seconds(recorded - allocated));
  if (ledger) {
    const i64 used = device.chip().memory_bytes - device.free_bytes(),
              planned = ledger->fixed() + blocks * layout.block_bytes();
    spdlog::info("GPU memory: {:.2f} GiB planned, {:.2f} GiB in use ({:+.2f}%)",
                 static_cast<double>(planned) / (1 << 30), static_cast<double>(used) / (1 << 30),
                 100 * static_cast<double>(used - planned) / static_cast<double>(planned));
  }
  return std::make_unique<EngineImpl>(std::move(owned), std::move(info), s, std::move(executor));
}

Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options) {
  ASSIGN(auto runtime, load_runtime(options.runtime));
  spdlog::info("loaded {} on {} in {:.2f} s: {:.1f} MiB of weights", options.runtime.model,
               runtime.backend->device().chip().name, runtime.load_seconds,
               static_cast<double>(runtime.model->weight_bytes()) / (1 << 20));
  return make_engine(options, std::move(runtime));
}

}  // namespace trireme::engine
