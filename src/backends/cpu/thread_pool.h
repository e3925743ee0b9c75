// Threads for loops of microseconds. A worker spins for about 100 µs after its last work and then sleeps, so
// that the steps of a decode find it awake and an idle server burns nothing.
#pragma once
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/types.h"

namespace trireme::cpu {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // including the caller's; at least 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(begin, end, worker) for pieces of [0, n) of at most `grain` (at least 1), in any order, and
  // returns when all are done. 0 <= worker < threads(), and one worker runs one piece at a time. f must not
  // throw. A call from inside f, or while another thread uses the pool, runs on its own thread alone.
  template <class F>
  void parallel_for(i64 n, i64 grain, F&& f) {
    using Fn = std::remove_reference_t<F>;
    run(
        n, grain, [](void* c, i64 b, i64 e, int w) { (*static_cast<Fn*>(c))(b, e, w); }, &f);
  }

 private:
  using Call = void (*)(void*, i64, i64, int);
  void run(i64 n, i64 grain, Call call, void* context);
  bool take_piece(int worker);
  void work(int worker);

  std::vector<std::thread> workers_;
  std::atomic<bool> busy_{false};  // for the length of one loop

  // {epoch : 24, pieces : 20, next piece : 20}. A worker owns a piece when it moved `next` on; the epoch in
  // the same word makes sure that the fields below belong to the loop it read them for.
  std::atomic<u64> ticket_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<i64> n_{0}, grain_{1};
  alignas(64) std::atomic<i64> finished_{0};

  alignas(64) std::atomic<int> sleepers_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<bool> stop_{false};
};

}  // namespace trireme::cpu
