// Times the thin GEMM kernel: thin_bench [case substring] [least_steps ...], every tile; 0: no tile is
// shared. Medians of launches with L2 flushed before each. THIN_CLEAN=1: flushed by reading, so that no
// writes of the flush are left to do.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "backends/cuda/sm90/gemm/gemm_testing.cuh"
#include "backends/cuda/sm90/gemm/thin.h"

namespace trireme::cuda {
namespace {

using namespace gemm_testing;

struct Case {
  int experts, m, n, k;  // m: rows of each expert
  int max_m;             // 0: dense
  std::string name() const {
    const std::string rows = max_m == 0 ? "dense-m" + std::to_string(m)
                                        : "masked-" + std::to_string(experts) + "x" + std::to_string(m);
    return rows + "-n" + std::to_string(n) + "-k" + std::to_string(k);
  }
};

std::vector<Case> cases() {
  std::vector<Case> all = {{64, 32, 4096, 7168, 128},
                           {64, 32, 7168, 2048, 128},
                           {32, 128, 4096, 7168, 256},
                           {64, 8, 4096, 7168, 128},
                           {1, 16, 8448, 128, 0}};  // the last: what a launch costs
  for (int m : {1, 8, 16, 32, 64, 128, 256}) {
    all.push_back({1, m, 2112, 7168, 0});
    if (m > 128) continue;
    all.push_back({1, m, 7168, 16384, 0});
    all.push_back({1, m, 24576, 1536, 0});
    all.push_back({1, m, 4096, 7168, 0});
    all.push_back({1, m, 7168, 2048, 0});
    all.push_back({1, m, 36864, 7168, 0});
    all.push_back({1, m, 7168, 18432, 0});
  }
  return all;
}

__global__ void read_all(const uint4* p, std::size_t count, std::uint32_t* out) {
  std::uint32_t sum = 0;
  for (std::size_t i = blockIdx.x * std::size_t{256} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * 256)
    sum += p[i].x;
  if (sum == 0x12345) *out = sum;
}

class Bench {
 public:
  explicit Bench(const Case& c)
      : c_(c),
        rows_(c.max_m > 0 ? c.experts * c.max_m : c.m),
        x_(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(c.k)),
        w_(static_cast<std::size_t>(c.experts) * static_cast<std::size_t>(c.n) *
           static_cast<std::size_t>(c.k)),
        x_scale_(static_cast<std::size_t>(c.k / 128) * static_cast<std::size_t>(rows_ + 3)),
        w_scale_(static_cast<std::size_t>(c.experts * ((c.n + 127) / 128)) *
                 static_cast<std::size_t>(c.k / 128)),
        counts_(std::vector<int>(static_cast<std::size_t>(c.experts), c.m)),
        out_(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(c.n)),
        flush_(std::size_t{256} << 20),
        workspace_(std::size_t{64} << 20) {
    fill_normal<<<2048, 256>>>(x_.get(), x_.bytes(), 1, 100.0f);
    fill_normal<<<2048, 256>>>(w_.get(), w_.bytes(), 2, 100.0f);
    fill_scales<<<256, 256>>>(x_scale_.get(), x_scale_.bytes() / 4, 3);
    fill_scales<<<256, 256>>>(w_scale_.get(), w_scale_.bytes() / 4, 4);
    must(cudaMemset(workspace_.get(), 0, workspace_.bytes()), "workspace");
    must(cudaDeviceSynchronize(), "prepare");
  }

  void time(int variant, int least_steps) {
    cudaEvent_t begin, end;
    must(cudaEventCreate(&begin), "event");
    must(cudaEventCreate(&end), "event");
    const bool clean = std::getenv("THIN_CLEAN") != nullptr;
    std::vector<float> us;
    for (int i = 0; i < 23; ++i) {
      if (clean) {
        read_all<<<1024, 256>>>(reinterpret_cast<const uint4*>(flush_.get()), flush_.bytes() / 16,
                                reinterpret_cast<std::uint32_t*>(workspace_.get() + workspace_.bytes() - 4));
      } else {
        must(cudaMemsetAsync(flush_.get(), i, flush_.bytes()), "flush");
      }
      must(cudaEventRecord(begin), "record");
      const cudaError_t e = launch(variant, least_steps);
      must(cudaEventRecord(end), "record");
      if (e != cudaSuccess) std::printf("  variant %d: %s\n", variant, cudaGetErrorString(e));
      must(cudaEventSynchronize(end), "a run");
      float ms = 0;
      must(cudaEventElapsedTime(&ms, begin, end), "elapsed");
      if (i >= 3) us.push_back(ms * 1e3f);
    }
    std::sort(us.begin(), us.end());
    const double t = us[us.size() / 2];
    const double rows = static_cast<double>(c_.experts) * c_.m;
    const double bytes = static_cast<double>(w_.bytes()) + rows * (c_.k + 2.0 * c_.n);
    std::printf("%-28s %3dx%3d s%-2d %7.1f us (min %6.1f) floor %6.1f  %5.2f TB/s\n", c_.name().c_str(),
                kThinTiles[variant].tokens, kThinTiles[variant].weights, least_steps, t,
                static_cast<double>(us.front()), bytes / 4.2e6, bytes / t * 1e-6);
    std::fflush(stdout);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }

 private:
  cudaError_t launch(int variant, int least_steps) {
    ThinGemmArgs a;
    a.gemm.x = x_.get();
    a.gemm.x_stride = c_.k;
    a.gemm.x_scale = x_scale_.get();
    a.gemm.x_scale_stride = (rows_ + 3) / 4 * 4;
    a.gemm.w = w_.get();
    a.gemm.w_scale = w_scale_.get();
    a.gemm.w_scale_stride = c_.k / 128;
    a.gemm.out = out_.get();
    a.gemm.out_stride = c_.n;
    a.gemm.n = c_.n;
    a.gemm.k = c_.k;
    a.gemm.rows.layout = c_.max_m > 0 ? RowLayout::masked : RowLayout::dense;
    a.gemm.rows.experts = c_.experts;
    a.gemm.rows.counts = c_.max_m > 0 ? counts_.get() : nullptr;
    a.gemm.rows.rows = rows_;
    a.gemm.rows.max_m = c_.max_m;
    a.gemm.variant = variant;
    a.least_steps = least_steps;
    a.workspace = workspace_.get();
    a.workspace_bytes = static_cast<std::int64_t>(workspace_.bytes());
    return gemm_thin_fp8(a, nullptr);
  }

  const Case c_;
  const int rows_;
  DeviceBuffer<__nv_fp8_e4m3> x_, w_;
  DeviceBuffer<float> x_scale_, w_scale_;
  DeviceBuffer<int> counts_;
  DeviceBuffer<__nv_bfloat16> out_;
  DeviceBuffer<unsigned char> flush_, workspace_;
};

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  using namespace trireme::cuda;
  const std::string filter = argc > 1 ? argv[1] : "";
  std::vector<int> least;
  for (int i = 2; i < argc; ++i) least.push_back(std::atoi(argv[i]));
  if (least.empty()) least.push_back(4);
  for (const Case& c : cases()) {
    if (c.name().find(filter) == std::string::npos) continue;
    Bench bench(c);
    for (int v = 0; v < kThinTileCount; ++v) {
      // A tile wastes no more than half of its tokens, and none is far too low.
      if (c.m > 2 * kThinTiles[v].tokens || (kThinTiles[v].tokens > 32 && c.m <= 16)) continue;
      const char* only = std::getenv("THIN_ONLY");  // indices of tiles, a digit each
      if (only != nullptr && std::strchr(only, '0' + v) == nullptr) continue;
      for (int s : least) bench.time(v, s);
    }
  }
  return 0;
}
