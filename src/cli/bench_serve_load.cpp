#include "cli/bench_serve_load.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cmath>
#include <memory>

#include "base/json.h"
#include "cli/http_client.h"
#include "cli/sse.h"

namespace trireme::cli {
namespace {

namespace asio = boost::asio;

constexpr std::size_t kMaxErrorBody = 64u << 10;

// Marsaglia and Tsang (2000), for shapes of at least 1.
double gamma_at_least_1(Rng& rng, double shape) {
  const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  while (true) {
    const double x = rng.normal();
    const double v = std::pow(1.0 + c * x, 3);
    if (v > 0 && std::log(1.0 - rng.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

// One connection and the request that it carries.
struct Stream {
  Stream(asio::io_context& io, const LoadOptions& o) : connection(io, o.url, o.addresses, o.timeouts) {}

  HttpConnection connection;
  RequestRecord* record = nullptr;
  std::size_t index = 0;
  SseParser events;
  HttpHead head;
  std::string error_body, last_usage;
  Status stream_status;
  Time sent{}, last{};
  i64 pieces = 0;
  bool complete = false;  // [DONE] was seen

  void begin(RequestRecord& to, Time at) {
    record = &to;
    events = SseParser();
    head = {};
    error_body.clear();
    last_usage.clear();
    stream_status = {};
    sent = last = at;
    pieces = 0;
    complete = false;
  }

  void on_event(std::string_view data, Time at) {
    if (data == "[DONE]") {
      complete = true;
      return;
    }
    const ChunkSight sight = look_at_chunk(data);
    if (sight.error) error_body = data.substr(0, kMaxErrorBody);
    if (sight.usage) last_usage = data;
    if (!sight.text) return;
    if (pieces++ == 0) {
      record->ttft = seconds(at - sent);
    } else {
      record->gaps.push_back(static_cast<float>(seconds(at - last)));
    }
    last = at;
  }

  bool on_body(std::string_view bytes) {
    if (head.status != 200) {
      error_body += bytes.substr(0, kMaxErrorBody - std::min(kMaxErrorBody, error_body.size()));
      return true;
    }
    const Time at = SteadyClock().now();
    stream_status = events.push(bytes, [&](std::string_view data) { on_event(data, at); });
    return stream_status.has_value();
  }

  void fail_as(std::string kind, std::string why) {
    record->error_kind = std::move(kind);
    record->error = std::move(why);
  }

  void read_usage() {
    record->output_tokens = pieces;
    if (last_usage.empty()) return;
    const auto json = parse_json(last_usage, "usage");
    if (!json || !json->is_object() || !json->contains("usage") || !(*json)["usage"].is_object()) return;
    const auto& usage = (*json)["usage"];
    const auto number = [](const Json& from, const char* name) {
      const auto found = from.find(name);
      return found != from.end() && found->is_number_integer() ? found->get<i64>() : i64{-1};
    };
    const i64 output = number(usage, "completion_tokens");
    if (output < 0) return;
    record->counted = true;
    record->output_tokens = output;
    record->prompt_tokens = std::max<i64>(0, number(usage, "prompt_tokens"));
    if (const auto details = usage.find("prompt_tokens_details");
        details != usage.end() && details->is_object()) {
      record->cached_tokens = std::max<i64>(0, number(*details, "cached_tokens"));
    }
  }

  void finish(Status status) {
    const Time at = SteadyClock().now();
    record->e2e = seconds(at - sent);
    if (!status) {
      const auto code = status.error().code;
      return fail_as(code == ErrorCode::kDeadlineExceeded                  ? "timeout"
                     : head.status == 0 && code == ErrorCode::kUnavailable ? "connection"
                     : code == ErrorCode::kCancelled                       ? "stopped"
                                                                           : "disconnected",
                     status.error().message);
    }
    if (head.status != 200) {
      return fail_as(fmt::format("HTTP {}", head.status), status_error(head, error_body).message);
    }
    if (!stream_status) return fail_as("bad stream", stream_status.error().message);
    if (!error_body.empty()) {
      return fail_as("error in stream", status_error({.status = 500}, error_body).message);
    }
    if (!complete) return fail_as("disconnected", "the stream ended without [DONE]");
    read_usage();
    if (record->output_tokens == 0) return fail_as("no output", "the server made no token");
    if (pieces == 0) record->ttft = record->e2e;  // all of it was special tokens, which have no text
    record->ok = true;
  }
};

class Load {
 public:
  Load(const LoadOptions& options, std::span<const std::string> bodies,
       const std::function<void(i64, i64)>& progress, const std::atomic<bool>* stop)
      : options_(options),
        bodies_(bodies),
        progress_(progress),
        stop_(stop),
        arrivals_(options.request_rate, options.burstiness, options.seed),
        timer_(io_),
        watch_(io_) {
    result_.requests.resize(bodies.size());
  }

  LoadResult run() {
    start_ = SteadyClock().now();
    if (options_.request_rate > 0) {
      due_at_ = start_;
      arrive();
    } else {
      due_ = bodies_.size();
      pump();
    }
    watch();
    io_.run();
    result_.duration = seconds(SteadyClock().now() - start_);
    if (result_.stopped) {
      std::erase_if(result_.requests, [](const RequestRecord& r) {
        return !r.ok && (r.error_kind.empty() || r.error_kind == "stopped");
      });
    }
    return std::move(result_);
  }

 private:
  void watch() {
    watch_.expires_after(std::chrono::milliseconds(100));
    watch_.async_wait([this](const boost::system::error_code& error) {
      if (error) return;
      if (stop_ != nullptr && stop_->load(std::memory_order_relaxed)) return stop_all();
      watch();
    });
  }

  // Requests whose time has come are sent, then the timer waits for the next one's.
  void arrive() {
    const Time now = SteadyClock().now();
    while (due_ < bodies_.size() && due_at_ <= now) {
      result_.requests[due_++].due = seconds(due_at_ - start_);
      due_at_ += from_seconds(arrivals_.next_gap());
    }
    pump();
    if (due_ == bodies_.size()) return;
    timer_.expires_at(std::chrono::time_point_cast<asio::steady_timer::duration>(due_at_));
    timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) arrive();
    });
  }

  void pump() {
    while (next_ < due_ && (options_.concurrency == 0 || running_ < options_.concurrency)) {
      if (idle_.empty()) {
        streams_.push_back(std::make_unique<Stream>(io_, options_));
        idle_.push_back(streams_.back().get());
      }
      Stream* stream = idle_.back();
      idle_.pop_back();
      send(*stream, next_++);
    }
  }

  void send(Stream& stream, std::size_t index) {
    result_.peak_concurrency = std::max(result_.peak_concurrency, ++running_);
    auto& record = result_.requests[index];
    const Time now = SteadyClock().now();
    stream.begin(record, now);
    record.sent = seconds(now - start_);
    if (options_.request_rate == 0) record.due = record.sent;
    stream.connection.send(
        {.method = "POST", .path = options_.path, .body = bodies_[index], .api_key = options_.api_key},
        {[&stream](const HttpHead& head) { stream.head = head; },
         [&stream](std::string_view bytes) { return stream.on_body(bytes); },
         [this, &stream](Status status) { ended(stream, std::move(status)); }});
  }

  void ended(Stream& stream, Status status) {
    stream.finish(std::move(status));
    --running_;
    ++done_;
    idle_.push_back(&stream);
    if (progress_) progress_(static_cast<i64>(done_), static_cast<i64>(bodies_.size()));
    if (done_ == bodies_.size()) return io_.stop();
    // The next request is sent from a fresh stack: failures that come at once would nest.
    if (!result_.stopped) asio::post(io_, [this] { pump(); });
  }

  void stop_all() {
    result_.stopped = true;
    timer_.cancel();
    for (const auto& stream : streams_) stream->connection.cancel();
    io_.stop();
  }

  const LoadOptions& options_;
  std::span<const std::string> bodies_;
  const std::function<void(i64, i64)>& progress_;
  const std::atomic<bool>* stop_;
  Arrivals arrivals_;
  LoadResult result_;
  asio::io_context io_{1};
  asio::steady_timer timer_, watch_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<Stream*> idle_;
  Time start_{}, due_at_{};
  std::size_t due_ = 0;   // requests whose time has come
  std::size_t next_ = 0;  // the next one to send
  std::size_t done_ = 0;
  int running_ = 0;
};

double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

// A stream is a descriptor; the usual soft limit of 1024 is below what the machine allows.
void allow_many_descriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

double Arrivals::next_gap() {
  if (shape_ == 1) return rng_.exponential(rate_);
  const double scale = 1 / (rate_ * shape_);
  if (shape_ > 1) return scale * gamma_at_least_1(rng_, shape_);
  return scale * gamma_at_least_1(rng_, shape_ + 1) * std::pow(1.0 - rng_.uniform(), 1 / shape_);
}

LoadResult run_load(const LoadOptions& options, std::span<const std::string> bodies,
                    const std::function<void(i64, i64)>& progress, const std::atomic<bool>* stop) {
  allow_many_descriptors();
  const double cpu = process_cpu_seconds();
  LoadResult out = Load(options, bodies, progress, stop).run();
  out.cpu_seconds = process_cpu_seconds() - cpu;
  return out;
}

}  // namespace trireme::cli
