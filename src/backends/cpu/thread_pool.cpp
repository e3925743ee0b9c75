#include "backends/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

namespace trireme::cpu {
namespace {

constexpr u64 kField = (1u << 20) - 1;
constexpr i64 kMaxPieces = 1 << 16;
constexpr auto kSpin = std::chrono::microseconds(100);

u64 pieces_of(u64 ticket) { return (ticket >> 20) & kField; }
u64 next_of(u64 ticket) { return ticket & kField; }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int w = 1; w < threads; ++w) workers_.emplace_back([this, w] { work(w); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(sleep_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& t : workers_) t.join();
}

bool ThreadPool::take_piece(int worker) {
  u64 t = ticket_.load(std::memory_order_acquire);
  while (next_of(t) < pieces_of(t)) {
    const Call call = call_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    const i64 n = n_.load(std::memory_order_relaxed), grain = grain_.load(std::memory_order_relaxed);
    if (!ticket_.compare_exchange_weak(t, t + 1, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    const i64 begin = static_cast<i64>(next_of(t)) * grain;
    call(context, begin, std::min(n, begin + grain), worker);
    finished_.fetch_add(1, std::memory_order_release);
    return true;
  }
  return false;
}

void ThreadPool::run(i64 n, i64 grain, Call call, void* context) {
  if (n <= 0) return;
  grain = std::max({grain, i64{1}, ceil_div(n, kMaxPieces)});
  const i64 pieces = ceil_div(n, grain);
  if (pieces == 1 || workers_.empty() || busy_.exchange(true, std::memory_order_acquire)) {
    for (i64 b = 0; b < n; b += grain) call(context, b, std::min(n, b + grain), 0);
    return;
  }
  call_.store(call, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  n_.store(n, std::memory_order_relaxed);
  grain_.store(grain, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  const u64 epoch = (ticket_.load(std::memory_order_relaxed) >> 40) + 1;
  ticket_.store(epoch << 40 | static_cast<u64>(pieces) << 20);  // seq_cst: before the look at sleepers_
  if (sleepers_.load() > 0) {
    const std::lock_guard lock(sleep_);
    wake_.notify_all();
  }
  while (take_piece(0)) {
  }
  for (int i = 0; finished_.load(std::memory_order_acquire) < pieces; ++i) {
    if (i < 4096)
      relax();
    else
      std::this_thread::yield();  // someone else's work is on our worker's core
  }
  busy_.store(false, std::memory_order_release);
}

void ThreadPool::work(int worker) {
  const auto has_work = [this] {
    const u64 t = ticket_.load();
    return next_of(t) < pieces_of(t);
  };
  while (!stop_.load(std::memory_order_relaxed)) {
    if (take_piece(worker)) continue;
    const auto until = std::chrono::steady_clock::now() + kSpin;
    bool found = false;
    while (!found && std::chrono::steady_clock::now() < until) {
      for (int i = 0; i < 32 && !found; ++i) {
        relax();
        found = has_work();
      }
    }
    if (found) continue;
    std::unique_lock lock(sleep_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return stop_.load() || has_work(); });
    sleepers_.fetch_sub(1);
  }
}

}  // namespace trireme::cpu
