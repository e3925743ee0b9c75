// How a connection answers a generation request: prepares it off the loop when it is big, hands it to the
// engine, and sends what comes back as fast as the client reads.
#include <boost/asio/awaitable.hpp>

#include "base/log.h"
#include "server/http/connection.h"

namespace trireme::server {
namespace {

constexpr std::size_t kQuickBytes = 16u << 10;
// A request that fails at once gets a status of its own; one that waits longer gets its stream opened.
constexpr Duration kStatusPatience = std::chrono::milliseconds(500);
constexpr Duration kForever = std::chrono::hours(24 * 365);

class Slot {
 public:
  explicit Slot(Service& service) : service_(service) {
    granted_ = service.generations.fetch_add(1) < service.options.max_generations;
    service_.metrics.generations.add(1);
  }
  ~Slot() {
    service_.generations.fetch_sub(1);
    service_.metrics.generations.add(-1);
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  bool granted() const { return granted_; }

 private:
  Service& service_;
  bool granted_;
};

std::string log_details(const Generation& generation) {
  const auto usage = generation.usage();
  return fmt::format("prompt={} cached={} generated={} ttft={:.1f}ms", usage.prompt_tokens,
                     usage.cached_tokens, usage.completion_tokens, generation.first_token_s() * 1e3);
}

}  // namespace

void Connection::check_slow_reader() {
  if (!writing_stream_ || !generation_ || gone_) return;
  const auto& options = service_.options;
  const auto waiting = frame_.size() + generation_->output().size();
  if (waiting <= options.slow_reader_bytes) {
    over_limit_since_ = Time::max();
    return;
  }
  const Time now = std::chrono::steady_clock::now();
  if (over_limit_since_ == Time::max()) over_limit_since_ = now;
  if (waiting > 8 * options.slow_reader_bytes || now - over_limit_since_ > options.slow_reader_timeout) {
    service_.metrics.slow_readers.add();
    spdlog::warn("{} reads its stream too slowly: {} bytes wait; cancelled", peer_, waiting);
    close();
  }
}

net::awaitable<bool> Connection::generate(HttpRequest& request, Route route) {
  service_.metrics.requests.add();
  watch();
  const Slot slot(service_);
  ApiResult<PreparedRequest> prepared = tl::unexpected(ApiError{});
  if (service_.draining) {
    prepared =
        tl::unexpected(ApiError{503, "the server is shutting down", "server_error", "", "shutting_down", 1});
  } else if (!slot.granted()) {
    prepared =
        tl::unexpected(ApiError{429, "the server answers as many requests as it takes; try again later",
                                "rate_limit_error", "", "too_many_streams", 1});
  } else {
    const auto prepare = [&] {
      try {
        prepared = service_.prepare(route, request.body);
      } catch (const std::exception& e) {
        prepared = tl::unexpected(ApiError{500, e.what(), "server_error", "", "internal_error", 0});
      }
    };
    if (request.body.size() > kQuickBytes)
      co_await on_worker(prepare);
    else
      prepare();
  }
  std::string().swap(request.body);
  request.body_share.reset();

  ApiResult<void> submitted;
  if (prepared && !gone_) {
    const std::string id = (route == Route::kChat ? "chatcmpl-" : "cmpl-") + random_id();
    generation_ = std::make_shared<Generation>(
        Generation::Home{service_.engine, service_.text, service_.metrics, loop_.mailbox,
                         service_.limits.model_names.front(), request.tenant},
        std::move(*prepared), id, request.arrived, [this] {
          check_slow_reader();
          signal();
        });
    submitted = generation_->submit();
    if (!submitted) generation_ = nullptr;
  } else if (!prepared) {
    submitted = tl::unexpected(std::move(prepared).error());
  }
  if (!submitted) {
    service_.metrics.registry
        .counter(obs::Metric::kRequestsRejected, {std::to_string(submitted.error().status)})
        .add();
    co_await unwatch();
    if (gone_) co_return false;
    co_return co_await send(request, error_reply(submitted.error()), route, false);
  }

  bool keep = false;
  if (generation_) {
    const auto generation = generation_;
    if (generation->stream()) {
      const Time patience = std::chrono::steady_clock::now() + kStatusPatience;
      while (!generation->started() && !generation->done() && !gone_ &&
             std::chrono::steady_clock::now() < patience) {
        co_await wait(kStatusPatience);
      }
    } else {
      while (!generation->done() && !gone_) co_await wait(kForever);
    }
    if (gone_) {
      // Nothing can be said to anyone.
    } else if (generation->done() && generation->error()) {
      co_await unwatch();
      keep = !gone_ && co_await send(request, error_reply(*generation->error()), route, false,
                                     log_details(*generation));
    } else if (generation->stream()) {
      keep = co_await send_stream(request, route, *generation);
    } else {
      co_await unwatch();
      HttpReply reply;
      reply.body = generation->whole_answer();
      keep = !gone_ && co_await send(request, std::move(reply), route, false, log_details(*generation));
    }
    if (gone_ && !generation->done()) {
      service_.metrics.disconnects.add();
      // 499 is how access logs name a client that went away.
      service_.log(request, peer_, route, 499, log_details(*generation));
    }
    generation->detach();
    generation_ = nullptr;
  }
  co_return keep && !gone_;
}

net::awaitable<bool> Connection::send_stream(HttpRequest& request, Route route, Generation& generation) {
  const bool close_after = !request.keep_alive || !request.http11 || draining_;
  HttpReply head;
  head.content_type = "text/event-stream; charset=utf-8";
  frame_ = response_head(request, head, -1, close_after, service_.options.allow_origin);
  generation.open_stream();
  writing_stream_ = true;
  over_limit_since_ = Time::max();
  bool sent = true;
  bool ended = false;
  while (sent && !gone_ && !ended) {
    ended = generation.done();
    auto& output = generation.output();
    if (!output.empty()) {
      // All that came while the last write was on its way goes out as one chunk.
      if (request.http11) {
        fmt::format_to(std::back_inserter(frame_), "{:x}\r\n", output.size());
        frame_ += output;
        frame_ += "\r\n";
      } else {
        frame_ += output;
      }
      output.clear();
    }
    if (ended && request.http11) frame_ += "0\r\n\r\n";
    if (!frame_.empty()) {
      sent = co_await write(frame_);
      frame_.clear();
      check_slow_reader();
    }
    if (ended || !generation.output().empty() || generation.done()) continue;
    const Time silent_since = std::chrono::steady_clock::now();
    co_await wait(service_.options.sse_heartbeat);
    if (generation.output().empty() && !generation.done() && !gone_ &&
        std::chrono::steady_clock::now() - silent_since >= service_.options.sse_heartbeat) {
      generation.output() = ": still working\n\n";
    }
  }
  writing_stream_ = false;
  co_await unwatch();
  if (sent && !gone_) service_.log(request, peer_, route, 200, log_details(generation));
  co_return sent && !gone_ && !close_after;
}

}  // namespace trireme::server
