#include "backends/cpu/measure.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "backends/cpu/thread_pool.h"

namespace trireme::cpu {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Sums 64-bit words in eight chains, enough for memory to be what limits it.
u64 read_all(const u64* p, i64 n) {
  u64 sum[8] = {};
  for (i64 i = 0; i + 8 <= n; i += 8) {
    __builtin_prefetch(p + i + 512);  // the hardware's own stops at the end of each page
    for (int lane = 0; lane < 8; ++lane) sum[lane] += p[i + lane];
  }
  u64 total = 0;
  for (const u64 s : sum) total += s;
  return total;
}

}  // namespace

double measured_read_bandwidth(int threads) {
  constexpr i64 kBytes = 1 << 30, kPiece = 2 << 20;
  struct Free {
    void operator()(u64* p) const { std::free(p); }
  };
  const std::unique_ptr<u64, Free> data(static_cast<u64*>(std::aligned_alloc(kPiece, kBytes)));
  if (!data) return 0;
  madvise(data.get(), kBytes, MADV_HUGEPAGE);
  ThreadPool pool(std::max(1, threads));
  const i64 words = kBytes / 8, grain = kPiece / 8;
  pool.parallel_for(words, grain, [&](i64 begin, i64 end, int) {
    std::fill(data.get() + begin, data.get() + end, u64{1});
  });
  double best = 0;
  std::atomic<u64> sink{0};
  for (int pass = 0; pass < 6; ++pass) {
    const double start = now();
    // One long range a thread, as a weight is read.
    pool.parallel_for(words, ceil_div(words, 8 * pool.threads()),
                      [&](i64 begin, i64 end, int) { sink += read_all(data.get() + begin, end - begin); });
    best = std::max(best, static_cast<double>(kBytes) / (now() - start));
  }
  return sink.load() > 0 ? best : 0;
}

double onednn_gemm_rate(i64 m, i64 n, i64 k) {
  using dnnl::memory;
  try {
    omp_set_num_threads(omp_get_num_procs());
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const memory::desc x({m, k}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc w({k, n}, memory::data_type::bf16, memory::format_tag::any);
    const memory::desc y({m, n}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc desc({x, w, y}, engine);
    const dnnl::matmul product(desc);
    memory xm(desc.src_desc(), engine), wm(desc.weights_desc(), engine), ym(desc.dst_desc(), engine);
    for (const memory* each : {&xm, &wm})
      std::fill_n(static_cast<u16*>(each->get_data_handle()), each->get_desc().get_size() / 2, u16{0x3c00});
    double best = 0;
    const double end = now() + 0.5;
    for (int pass = 0; pass < 3 || (now() < end && pass < 1000); ++pass) {
      const double start = now();
      product.execute(stream, {{DNNL_ARG_SRC, xm}, {DNNL_ARG_WEIGHTS, wm}, {DNNL_ARG_DST, ym}});
      stream.wait();
      best = std::max(best, 2.0 * static_cast<double>(m * n * k) / (now() - start));
    }
    return best;
  } catch (const dnnl::error&) {
    return 0;
  }
}

}  // namespace trireme::cpu
