// Times the router's product beside cuBLASLt: router_gemm_bench [libcublasLt.so.13 | -]. Every width of a
// tile; medians of launches with L2 flushed before each.

#include "backends/cuda/heuristics/router_tile.h"
#include "backends/cuda/sm90/head_gemm/rival.cuh"
#include "backends/cuda/sm90/router_gemm/router_gemm.h"

namespace trireme::cuda {
namespace {

using namespace gemm_testing;

void time(int rows, int n, int k, rival::Timer& timer, rival::CublasLt& lt) {
  const auto size = [](int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); };
  const DeviceBuffer<__nv_bfloat16> x(size(rows, k)), w(size(n, k));
  const DeviceBuffer<float> out(size(rows, n));
  fill_normal<__nv_bfloat16><<<1024, 256>>>(x.get(), x.bytes() / 2, 1, 1.0f);
  fill_normal<__nv_bfloat16><<<1024, 256>>>(w.get(), w.bytes() / 2, 2, 1.0f);
  RouterGemmArgs a{.x = x.get(),
                   .x_stride = k,
                   .w = w.get(),
                   .out = out.get(),
                   .out_stride = n,
                   .rows = rows,
                   .n = n,
                   .k = k};
  const double bytes = static_cast<double>(x.bytes() + w.bytes() + out.bytes());
  std::printf("rows %4d n%-4d k%-5d floor %5.2f us  columns", rows, n, k, bytes / 4.2e6);
  const int chosen = choose_router_columns(rows, n, k, 132);
  for (const int columns : kRouterColumns) {
    a.columns = columns;
    const double us = timer.median_us([&] { return router_gemm(a, nullptr) == cudaSuccess; });
    std::printf("  %s%d: %6.2f", columns == chosen ? "*" : "", columns, us);
  }
  const rival::Product p{.rows = rows,
                         .n = n,
                         .k = k,
                         .batch = 1,
                         .x = x.get(),
                         .w = w.get(),
                         .out = out.get(),
                         .x_stride = k,
                         .x_next = 0,
                         .w_next = 0,
                         .out_stride = n,
                         .out_next = 0,
                         .w_transposed = false,
                         .out_f32 = true};
  if (lt) std::printf("  cuBLASLt %6.2f, best of 5 %6.2f", lt.us(p, timer, 1), lt.us(p, timer, 5));
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  using namespace trireme::cuda;
  rival::Timer timer;
  rival::CublasLt lt(argc > 1 ? argv[1] : "libcublasLt.so.13");
  for (const int rows : {1, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096})
    time(rows, 256, 7168, timer, lt);
  for (const int rows : {1, 128, 512}) time(rows, 384, 7168, timer, lt);
  for (const int rows : {1, 128, 512}) time(rows, 8, 4096, timer, lt);
  return 0;
}
