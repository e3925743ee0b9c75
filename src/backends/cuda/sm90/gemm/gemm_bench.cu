// Times the GEMM kernels on DeepSeek-V3 and Mixtral shapes: gemm_bench [case substring] [all | variant ...];
// the variant that would be chosen where none is named. Medians of launches with L2 flushed before each.

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "backends/cuda/heuristics/gemm_tile.h"
#include "backends/cuda/sm90/gemm/gemm.h"
#include "backends/cuda/sm90/gemm/gemm_testing.cuh"

namespace trireme::cuda {
namespace {

using namespace gemm_testing;

struct Case {
  const char* name;
  RowLayout layout;
  bool fp8;
  int experts, m, n, k;  // m: rows of each expert
  int max_m;
};

constexpr Case kCases[] = {
    {"masked-4x512-n4096-k7168", RowLayout::masked, true, 4, 512, 4096, 7168, 1024},
    {"masked-4x512-n7168-k2048", RowLayout::masked, true, 4, 512, 7168, 2048, 1024},
    {"masked-32x128-n4096-k7168", RowLayout::masked, true, 32, 128, 4096, 7168, 256},
    {"masked-64x32-n4096-k7168", RowLayout::masked, true, 64, 32, 4096, 7168, 128},
    {"masked-64x32-n7168-k2048", RowLayout::masked, true, 64, 32, 7168, 2048, 128},
    {"packed-8x1024-n4096-k7168", RowLayout::packed, true, 8, 1024, 4096, 7168, 0},
    {"packed-8x1024-n7168-k2048", RowLayout::packed, true, 8, 1024, 7168, 2048, 0},
    {"dense-m32-n2112-k7168", RowLayout::dense, true, 1, 32, 2112, 7168, 0},
    {"dense-m256-n2112-k7168", RowLayout::dense, true, 1, 256, 2112, 7168, 0},
    {"dense-m256-n24576-k1536", RowLayout::dense, true, 1, 256, 24576, 1536, 0},
    {"dense-m512-n24576-k1536", RowLayout::dense, true, 1, 512, 24576, 1536, 0},
    {"dense-m64-n24576-k1536", RowLayout::dense, true, 1, 64, 24576, 1536, 0},
    {"dense-m64-n7168-k16384", RowLayout::dense, true, 1, 64, 7168, 16384, 0},
    {"dense-m256-n7168-k16384", RowLayout::dense, true, 1, 256, 7168, 16384, 0},
    {"dense-m512-n7168-k16384", RowLayout::dense, true, 1, 512, 7168, 16384, 0},
    {"dense-m4096-n4096-k7168", RowLayout::dense, true, 1, 4096, 4096, 7168, 0},
    {"dense-m4096-n7168-k16384", RowLayout::dense, true, 1, 4096, 7168, 16384, 0},
    {"bf16-m4096-n8192-k8192", RowLayout::dense, false, 1, 4096, 8192, 8192, 0},
    {"bf16-packed-8x512-n14336-k4096", RowLayout::packed, false, 8, 512, 14336, 4096, 0},
    {"bf16-m64-n14336-k4096", RowLayout::dense, false, 1, 64, 14336, 4096, 0},
};

template <class T>
class Bench {
 public:
  explicit Bench(const Case& c)
      : c_(c),
        rows_(c.layout == RowLayout::masked ? c.experts * c.max_m : c.experts * c.m),
        x_(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(c.k)),
        w_(static_cast<std::size_t>(c.experts) * static_cast<std::size_t>(c.n) *
           static_cast<std::size_t>(c.k)),
        x_scale_(static_cast<std::size_t>(c.k / 128) * static_cast<std::size_t>(rows_)),
        w_scale_(static_cast<std::size_t>(c.experts * ((c.n + 127) / 128)) *
                 static_cast<std::size_t>(c.k / 128)),
        counts_(count_words(c)),
        out_(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(c.n)),
        workspace_(static_cast<std::size_t>(gemm_workspace_bytes(132))),
        flush_(std::size_t{256} << 20) {
    must(cudaMemset(workspace_.get(), 0, workspace_.bytes()), "clear");
    fill_normal<T><<<2048, 256>>>(x_.get(), x_.bytes() / sizeof(T), 1, 100.0f);
    fill_normal<T><<<2048, 256>>>(w_.get(), w_.bytes() / sizeof(T), 2, 100.0f);
    fill_scales<<<256, 256>>>(x_scale_.get(), x_scale_.bytes() / 4, 3);
    fill_scales<<<256, 256>>>(w_scale_.get(), w_scale_.bytes() / 4, 4);
    must(cudaDeviceSynchronize(), "prepare");
  }

  void time(int variant) {
    cudaEvent_t begin, end;
    must(cudaEventCreate(&begin), "event");
    must(cudaEventCreate(&end), "event");
    std::vector<float> us;
    usleep(60000);  // rested, so that none pays for the clock that another lowered
    for (int i = 0; i < 23; ++i) {
      must(cudaMemsetAsync(flush_.get(), i, flush_.bytes()), "flush");
      must(cudaEventRecord(begin), "record");
      const cudaError_t e = launch(variant);
      must(cudaEventRecord(end), "record");
      if (e != cudaSuccess) std::printf("  variant %d: %s\n", variant, cudaGetErrorString(e));
      must(cudaEventSynchronize(end), c_.name);
      float ms = 0;
      must(cudaEventElapsedTime(&ms, begin, end), "elapsed");
      if (i >= 3) us.push_back(ms * 1e3f);
    }
    std::sort(us.begin(), us.end());
    const double t = us[us.size() / 2];
    const double rows = static_cast<double>(c_.experts) * c_.m;
    const double bytes = static_cast<double>(w_.bytes()) + rows * (c_.k * sizeof(T) + 2.0 * c_.n);
    const GemmTile tile = c_.fp8 ? kFp8Tiles[variant] : kBf16Tiles[variant];
    std::printf("%-32s v%-2d %3dx%3d c%d s%d %8.1f us %7.0f TFLOPS %5.2f TB/s (min %.1f)\n", c_.name, variant,
                tile.bm, tile.bn, tile.cluster, tile.split, t, 2.0 * rows * c_.n * c_.k / t * 1e-6,
                bytes / t * 1e-6, static_cast<double>(us.front()));
    std::fflush(stdout);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }

  int chosen() const {
    return choose_gemm_tile(
        {.fp8 = c_.fp8, .rows_per_group = c_.m, .groups = c_.experts, .n = c_.n, .k = c_.k, .even = true});
  }

 private:
  static std::vector<int> count_words(const Case& c) {
    std::vector<int> v;
    for (int e = 0; e < c.experts; ++e) v.push_back(c.layout == RowLayout::packed ? (e + 1) * c.m : c.m);
    return v;
  }
  cudaError_t launch(int variant) {
    GemmRows r;
    r.layout = c_.layout;
    r.experts = c_.experts;
    r.counts = c_.layout == RowLayout::dense ? nullptr : counts_.get();
    r.rows = rows_;
    r.max_m = c_.max_m;
    r.rows_hint = c_.m;
    if constexpr (sizeof(T) == 1) {
      return gemm_fp8({.x = x_.get(),
                       .x_stride = c_.k,
                       .x_scale = x_scale_.get(),
                       .x_scale_stride = rows_,
                       .w = w_.get(),
                       .w_scale = w_scale_.get(),
                       .w_scale_stride = c_.k / 128,
                       .out = out_.get(),
                       .out_stride = c_.n,
                       .n = c_.n,
                       .k = c_.k,
                       .rows = r,
                       .workspace = {workspace_.get(), static_cast<std::int64_t>(workspace_.bytes())},
                       .variant = variant},
                      nullptr);
    } else {
      return gemm_bf16({.x = x_.get(),
                        .x_stride = c_.k,
                        .w = w_.get(),
                        .out = out_.get(),
                        .out_stride = c_.n,
                        .n = c_.n,
                        .k = c_.k,
                        .rows = r,
                        .workspace = {workspace_.get(), static_cast<std::int64_t>(workspace_.bytes())},
                        .variant = variant},
                       nullptr);
    }
  }

  const Case c_;
  const int rows_;
  DeviceBuffer<T> x_, w_;
  DeviceBuffer<float> x_scale_, w_scale_;
  DeviceBuffer<int> counts_;
  DeviceBuffer<__nv_bfloat16> out_;
  DeviceBuffer<unsigned char> workspace_, flush_;
};

template <class T>
void run(const Case& c, const std::vector<int>& named, bool all) {
  Bench<T> bench(c);
  for (int v = 0; v < (c.fp8 ? kFp8TileCount : kBf16TileCount); ++v) {
    if (all ||
        (named.empty() ? v == bench.chosen() : std::find(named.begin(), named.end(), v) != named.end())) {
      bench.time(v);
    }
  }
}

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  using namespace trireme::cuda;
  const std::string filter = argc > 1 ? argv[1] : "";
  std::vector<int> variants;
  const bool all = argc > 2 && std::strcmp(argv[2], "all") == 0;
  for (int i = 2; i < argc && !all; ++i) variants.push_back(std::atoi(argv[i]));
  for (const Case& c : kCases) {
    if (std::string(c.name).find(filter) == std::string::npos) continue;
    if (c.fp8) {
      run<__nv_fp8_e4m3>(c, variants, all);
    } else {
      run<__nv_bfloat16>(c, variants, all);
    }
  }
  return 0;
}
