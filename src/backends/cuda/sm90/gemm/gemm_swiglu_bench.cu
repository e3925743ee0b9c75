// Times SwiGLU behind the gate and up product, fused and in two launches: gemm_swiglu_bench [case substring].
// Medians with L2 flushed before each.

#include <algorithm>
#include <numeric>
#include <string>

#include "backends/cuda/bench/judge.h"
#include "backends/cuda/heuristics/gemm_tile.h"
#include "backends/cuda/heuristics/swiglu_choice.h"
#include "backends/cuda/sm90/gemm/gemm_swiglu.h"
#include "backends/cuda/sm90/gemm/gemm_testing.cuh"
#include "backends/cuda/smxx/swiglu.h"

namespace trireme::cuda {
namespace {

using namespace gemm_testing;

enum class Loads { even, zipf, drawn };

struct Case {
  const char* name;
  RowLayout layout;
  int experts, m, n, k;  // m: rows of each expert; n: of the output
  int max_m;
  Loads loads = Loads::even;  // packed only
};

constexpr Case kCases[] = {
    {"packed-4x512-n2048-k7168", RowLayout::packed, 4, 512, 2048, 7168, 0},
    {"masked-4x512-n2048-k7168", RowLayout::masked, 4, 512, 2048, 7168, 1024},
    {"packed-8x1024-n2048-k7168", RowLayout::packed, 8, 1024, 2048, 7168, 0},
    {"uneven-4x512-n2048-k7168", RowLayout::packed, 4, 512, 2048, 7168, 0, Loads::zipf},
    {"uneven-9x512-n2048-k7168", RowLayout::packed, 9, 512, 2048, 7168, 0, Loads::zipf},
    {"packed-9x512-n2048-k7168", RowLayout::packed, 9, 512, 2048, 7168, 0},
    {"uneven-4x256-n2048-k7168", RowLayout::packed, 4, 256, 2048, 7168, 0, Loads::zipf},
    {"uneven-4x128-n2048-k7168", RowLayout::packed, 4, 128, 2048, 7168, 0, Loads::zipf},
    {"uneven-8x1024-n2048-k7168", RowLayout::packed, 8, 1024, 2048, 7168, 0, Loads::zipf},
    {"uneven-32x128-n2048-k7168", RowLayout::packed, 32, 128, 2048, 7168, 0, Loads::zipf},
    {"drawn-4x256-n2048-k7168", RowLayout::packed, 4, 256, 2048, 7168, 0, Loads::drawn},
    {"drawn-4x128-n2048-k7168", RowLayout::packed, 4, 128, 2048, 7168, 0, Loads::drawn},
    {"drawn-4x512-n2048-k7168", RowLayout::packed, 4, 512, 2048, 7168, 0, Loads::drawn},
    {"packed-4x256-n2048-k7168", RowLayout::packed, 4, 256, 2048, 7168, 0},
    {"packed-4x128-n2048-k7168", RowLayout::packed, 4, 128, 2048, 7168, 0},
    {"packed-4x64-n2048-k7168", RowLayout::packed, 4, 64, 2048, 7168, 0},
    {"packed-4x16-n2048-k7168", RowLayout::packed, 4, 16, 2048, 7168, 0},
    {"packed-32x128-n2048-k7168", RowLayout::packed, 32, 128, 2048, 7168, 0},
    {"packed-64x32-n2048-k7168", RowLayout::packed, 64, 32, 2048, 7168, 0},
    {"packed-9x3640-n2048-k7168", RowLayout::packed, 9, 3640, 2048, 7168, 0},
    {"packed-9x64-n2048-k7168", RowLayout::packed, 9, 64, 2048, 7168, 0},
    {"packed-16x16-n2048-k7168", RowLayout::packed, 16, 16, 2048, 7168, 0},
    {"packed-256x4-n2048-k7168", RowLayout::packed, 256, 4, 2048, 7168, 0},
    {"dense-m16-n2048-k7168", RowLayout::dense, 1, 16, 2048, 7168, 0},
    {"dense-m64-n2048-k7168", RowLayout::dense, 1, 64, 2048, 7168, 0},
    {"dense-m128-n2048-k7168", RowLayout::dense, 1, 128, 2048, 7168, 0},
    {"dense-m64-n18432-k7168", RowLayout::dense, 1, 64, 18432, 7168, 0},
    {"dense-m256-n2048-k7168", RowLayout::dense, 1, 256, 2048, 7168, 0},
    {"dense-m4096-n2048-k7168", RowLayout::dense, 1, 4096, 2048, 7168, 0},
    {"dense-m256-n18432-k7168", RowLayout::dense, 1, 256, 18432, 7168, 0},
    {"dense-m4096-n18432-k7168", RowLayout::dense, 1, 4096, 18432, 7168, 0},
};

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

class Bench {
 public:
  explicit Bench(const Case& c)
      : c_(c),
        rows_(c.layout == RowLayout::masked ? c.experts * c.max_m : c.experts * c.m),
        x_(size(rows_) * size(c.k)),
        w_(size(c.experts) * 2 * size(c.n) * size(c.k)),
        x_scale_(size(c.k / 128) * size(rows_)),
        w_scale_(size(c.experts) * 2 * size(c.n / 128) * size(c.k / 128)),
        ends_(counts(c)),
        gate_up_(size(rows_) * 2 * size(c.n)),
        codes_(size(rows_) * size(c.n)),
        scale_(size(c.n / 128) * size(rows_)),
        flush_(std::size_t{256} << 20),
        workspace_(size(gemm_workspace_bytes(132))) {
    must(cudaMemset(workspace_.get(), 0, workspace_.bytes()), "workspace");
    fill_normal<<<2048, 256>>>(x_.get(), x_.bytes(), 1, 100.0f);
    fill_normal<<<2048, 256>>>(w_.get(), w_.bytes(), 2, 100.0f);
    fill_scales<<<256, 256>>>(x_scale_.get(), x_scale_.bytes() / 4, 3);
    fill_scales<<<256, 256>>>(w_scale_.get(), w_scale_.bytes() / 4, 4);
    must(cudaDeviceSynchronize(), "prepare");
  }

  void compare() {
    int best = 0;
    std::vector<double> product;
    for (int v = 0; v < kFp8TileCount; ++v) {
      product.push_back(time([&] { return gemm(v); }));
      if (product[size(v)] < product[size(best)]) best = v;
    }
    const double two = time([&] {
      const cudaError_t e = gemm(best);
      return e != cudaSuccess ? e : swiglu();
    });
    const int v0 = choose_gemm_tile({.rows_per_group = c_.m,
                                     .groups = c_.experts,
                                     .n = 2 * c_.n,
                                     .k = c_.k,
                                     .even = c_.loads == Loads::even});
    std::printf("%-28s product %7.1f us by v%d (v%d, chosen: %.1f), product and swiglu %7.1f\n", c_.name,
                product[size(best)], best, v0, product[size(v0)], two);
    const double flops = 4.0 * c_.experts * c_.m * c_.n * c_.k;
    for (int v = 0; v < kSwigluVariants; ++v) {
      const double one = time([&] { return fused(v); });
      std::printf("  fused p%d %7.1f us %5.0f TFLOPS %5.2f TB/s, gain %6.2f%%%s\n", kSwigluPairs[v], one,
                  flops / one * 1e-6, static_cast<double>(w_.bytes()) / one * 1e-6, 100 * (two / one - 1),
                  v == chosen() ? " *" : "");
    }
    std::fflush(stdout);
  }

 private:
  static std::vector<int> counts(const Case& c) {
    std::vector<int> v(size(c.experts), c.m);
    if (c.loads == Loads::zipf) v = zipf_sizes(c.experts, c.experts * c.m, 1);
    if (c.loads == Loads::drawn) v = drawn_sizes(c.experts, c.experts * c.m);
    if (c.layout == RowLayout::packed) std::partial_sum(v.begin(), v.end(), v.begin());
    return v;
  }
  GemmRows rows() const {
    GemmRows r;
    r.layout = c_.layout;
    r.experts = c_.experts;
    r.counts = c_.layout == RowLayout::dense ? nullptr : ends_.get();
    r.rows = rows_;
    r.max_m = c_.max_m;
    if (c_.loads == Loads::even) r.rows_hint = c_.m;
    return r;
  }
  int chosen() const {
    return choose_swiglu_tile({.rows_per_group = c_.m,
                               .groups = c_.experts,
                               .n = c_.n,
                               .k = c_.k,
                               .even = c_.loads == Loads::even});
  }
  cudaError_t fused(int variant) {
    GemmSwigluArgs a;
    a.x = x_.get(), a.x_stride = c_.k;
    a.x_scale = x_scale_.get(), a.x_scale_stride = rows_;
    a.w = w_.get(), a.w_scale = w_scale_.get(), a.w_scale_stride = c_.k / 128;
    a.codes = codes_.get(), a.scale = scale_.get(), a.scale_stride = rows_;
    a.n = c_.n, a.k = c_.k;
    a.rows = rows();
    a.variant = variant;
    return gemm_swiglu(a, nullptr);
  }
  cudaError_t gemm(int variant) {
    GemmFp8Args a;
    a.x = x_.get(), a.x_stride = c_.k;
    a.x_scale = x_scale_.get(), a.x_scale_stride = rows_;
    a.w = w_.get(), a.w_scale = w_scale_.get(), a.w_scale_stride = c_.k / 128;
    a.out = gate_up_.get(), a.out_stride = 2 * c_.n;
    a.n = 2 * c_.n, a.k = c_.k;
    a.rows = rows();
    a.workspace = {workspace_.get(), static_cast<std::int64_t>(workspace_.bytes())};
    a.variant = variant;
    return gemm_fp8(a, nullptr);
  }
  cudaError_t swiglu() {
    smxx::SwigluArgs a;
    a.gate_up = gate_up_.get(), a.gate_up_stride = 2 * c_.n;
    a.q = {codes_.get(), scale_.get(), rows_};
    a.rows = rows_, a.n = c_.n;
    return smxx::swiglu(a, nullptr);
  }

  template <class Launch>
  double time(Launch launch) {
    cudaEvent_t begin, end;
    must(cudaEventCreate(&begin), "event");
    must(cudaEventCreate(&end), "event");
    std::vector<float> us;
    for (int i = 0; i < 23; ++i) {
      must(cudaMemsetAsync(flush_.get(), i, flush_.bytes()), "flush");
      must(cudaEventRecord(begin), "record");
      must(launch(), c_.name);
      must(cudaEventRecord(end), "record");
      must(cudaEventSynchronize(end), c_.name);
      float ms = 0;
      must(cudaEventElapsedTime(&ms, begin, end), "elapsed");
      if (i >= 3) us.push_back(ms * 1e3f);
    }
    std::sort(us.begin(), us.end());
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return us[us.size() / 2];
  }

  const Case c_;
  const int rows_;
  DeviceBuffer<__nv_fp8_e4m3> x_, w_;
  DeviceBuffer<float> x_scale_, w_scale_;
  DeviceBuffer<int> ends_;
  DeviceBuffer<std::uint16_t> gate_up_;
  DeviceBuffer<std::uint8_t> codes_;
  DeviceBuffer<float> scale_;
  DeviceBuffer<unsigned char> flush_, workspace_;
};

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  for (const auto& c : trireme::cuda::kCases) {
    if (std::string(c.name).find(filter) != std::string::npos) trireme::cuda::Bench(c).compare();
  }
  return 0;
}
