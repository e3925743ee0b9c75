// Times the products of one matrix a head beside cuBLASLt: head_gemm_bench [libcublasLt.so.13 | -] [heads]
// [tile], where `tile` times every division of the work instead. Medians of launches with L2 flushed before
// each.

#include "backends/cuda/sm90/head_gemm/head_gemm_testing.cuh"
#include "backends/cuda/sm90/head_gemm/rival.cuh"

namespace trireme::cuda {
namespace {

using namespace head_testing;
using rival::Timer;

constexpr double kBandwidth = 4.2e6;  // bytes a microsecond

double floor_us(const HeadProblem& s) {
  const double heads = s.heads, tokens = static_cast<double>(s.tokens);
  return heads * (s.n * s.k * (s.fp8 ? 1.0 : 2.0) + tokens * 2.0 * (s.n + s.k)) / kBandwidth;
}

double ours_us(const Operands& o, Timer& timer, HeadTile tile = {}) {
  return timer.median_us([&] { return head_gemm(o.args(tile), nullptr) == cudaSuccess; });
}

void all_tiles(const HeadProblem& s, Timer& timer) {
  const Operands o(s, 1);
  const HeadTile chosen = choose_head_tile(s, 132);
  for (const int rows : {64, 128}) {
    for (int parts = 1; s.n / parts >= (rows == 128 ? 128 : 64); parts *= 2) {
      for (const int chunks : {1, 2, 4, 8}) {
        if (s.heads * parts * chunks > 264 || chunks > (s.tokens + rows - 1) / rows) continue;
        const bool is = chosen.rows == rows && chosen.parts == parts && chosen.chunks == chunks;
        std::printf("n%-4d k%-4d %s heads %3d tokens %4lld  rows %3d parts %d chunks %d %7.2f us%s\n", s.n,
                    s.k, s.fp8 ? "fp8 " : "bf16", s.heads, static_cast<long long>(s.tokens), rows, parts,
                    chunks, ours_us(o, timer, {rows, parts, chunks}), is ? "  <- chosen" : "");
      }
    }
  }
}

rival::Product product(const Operands& o) {
  const HeadProblem& s = o.shape;
  return {.rows = s.tokens,
          .n = s.n,
          .k = s.k,
          .batch = s.heads,
          .x = o.x.get(),
          .w = o.w.get(),
          .out = o.out.get(),
          .x_stride = o.x_head_stride * s.heads,
          .x_next = o.x_head_stride,
          .w_next = std::int64_t{s.n} * s.k,
          .out_stride = std::int64_t{s.n} * s.heads,
          .out_next = s.n,
          .w_transposed = s.k == 128,
          .out_f32 = false};
}

void compare(const HeadProblem& s, Timer& timer, rival::CublasLt& lt) {
  constexpr int kCopies = 8;  // more than L2 keeps
  const Operands o(s, 1, kCopies);
  const double us = ours_us(o, timer), least = floor_us(s);
  std::printf("n%-4d k%-4d heads %3d tokens %4lld  %s %7.2f us (floor %6.2f)", s.n, s.k, s.heads,
              static_cast<long long>(s.tokens), s.fp8 ? "fp8 " : "bf16", us, least);
  std::printf("  in a row %7.2f", timer.in_a_row_us([&](int i) {
    return head_gemm(o.args({}, i % kCopies), nullptr) == cudaSuccess;
  }));
  if (lt && !s.fp8) {
    std::printf("  cuBLASLt %7.2f us, best of 5 %7.2f, in a row %7.2f", lt.us(product(o), timer, 1),
                lt.us(product(o), timer, 5), lt.us(product(o), timer, 1, kCopies));
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  using namespace trireme::cuda;
  rival::Timer timer;
  rival::CublasLt lt(argc > 1 ? argv[1] : "libcublasLt.so.13");
  const int heads = argc > 2 ? std::atoi(argv[2]) : 128;
  const bool tiles = argc > 3;
  for (const bool up : {true, false}) {
    for (const bool fp8 : {false, true}) {
      for (const int tokens : {1, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096}) {
        const HeadProblem s{tokens, heads, up ? 512 : 128, up ? 128 : 512, fp8};
        if (tiles) {
          all_tiles(s, timer);
        } else {
          compare(s, timer, lt);
        }
      }
    }
  }
  return 0;
}
