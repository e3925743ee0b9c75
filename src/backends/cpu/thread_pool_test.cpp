#include "backends/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <numeric>

namespace trireme::cpu {
namespace {

TEST(ThreadPool, RunsEveryIndexOnceForManyShortLoops) {
  ThreadPool pool(4);
  for (i64 loop = 0; loop < 3000; ++loop) {
    const i64 n = loop % 97;
    std::vector<int> seen(static_cast<std::size_t>(n), 0);
    pool.parallel_for(n, 1 + loop % 5, [&](i64 begin, i64 end, int worker) {
      EXPECT_GE(worker, 0);
      EXPECT_LT(worker, 4);
      for (i64 i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), 0), n);
  }
}

TEST(ThreadPool, ServesCallersFromSeveralThreadsAndFromInside) {
  ThreadPool pool(3);
  std::atomic<i64> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        pool.parallel_for(10, 1, [&](i64 begin, i64 end, int) {
          pool.parallel_for(end - begin, 1, [&](i64 b, i64 e, int) { total += e - b; });
        });
      }
    });
  }
  for (auto& t : callers) t.join();
  EXPECT_EQ(total.load(), 3 * 500 * 10);
}

TEST(ThreadPool, SleepsWhenIdle) {
  ThreadPool pool(4);
  pool.parallel_for(100, 1, [](i64, i64, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto cpu_seconds = [] {
    rusage u{};
    getrusage(RUSAGE_SELF, &u);
    return static_cast<double>(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           static_cast<double>(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
  };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(cpu_seconds() - before, 0.03);
}

}  // namespace
}  // namespace trireme::cpu
