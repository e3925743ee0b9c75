// Times of MLA decode attention: plan apart, kernel and merge together, L2 flushed between. Argument: bf16,
// fp8, or none for both.
#include <algorithm>
#include <cstring>

#include "backends/cuda/sm90/mla_decode/mla_decode_fixture.cuh"

namespace trireme::cuda {
namespace {

float median_us(int repeats, void* flush, std::size_t flush_bytes, auto&& body) {
  cudaEvent_t a, b;
  MLA_CUDA(cudaEventCreate(&a));
  MLA_CUDA(cudaEventCreate(&b));
  std::vector<float> times;
  for (int i = 0; i < repeats + 3; ++i) {
    MLA_CUDA(cudaMemsetAsync(flush, i, flush_bytes));
    MLA_CUDA(cudaEventRecord(a));
    body();
    MLA_CUDA(cudaEventRecord(b));
    MLA_CUDA(cudaEventSynchronize(b));
    float ms = 0;
    MLA_CUDA(cudaEventElapsedTime(&ms, a, b));
    if (i >= 3) times.push_back(ms * 1000);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void bench(const char* name, int seqs, int context, int heads, int query, bool fp8) {
  constexpr std::size_t kFlush = 256 << 20;
  static DeviceArray<unsigned char> flush(kFlush);
  DeviceBatch d(Batch(std::vector<SequenceSpec>(static_cast<std::size_t>(seqs), {context, query}), heads, 1),
                fp8, 0.3f, 7);
  const float plan =
      median_us(10, flush.get(), kFlush, [&] { MLA_CUDA(mla_decode_plan(d.plan_args, nullptr)); });
  const float us = median_us(21, flush.get(), kFlush, [&] { MLA_CUDA(mla_decode(d.args, nullptr)); });
  const double flops = 2.0 * seqs * query * heads * context * (576 + 512);
  const double bytes = static_cast<double>(seqs) * context * (fp8 ? 640 : 1152);
  std::printf("%s  %-28s %8.1f us  %6.1f TFLOPS  %5.2f TB/s  plan %.1f us\n", fp8 ? "fp8 " : "bf16", name, us,
              flops / us * 1e-6, bytes / us * 1e-6, plan);
  std::fflush(stdout);
}

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  using trireme::cuda::bench;
  for (const bool fp8 : {false, true}) {
    if (argc > 1 && (std::strcmp(argv[1], "fp8") == 0) != fp8) continue;
    bench("B64 S2048 h128", 64, 2048, 128, 1, fp8);
    bench("B256 S2048 h128", 256, 2048, 128, 1, fp8);
    bench("B256 S4096 h128", 256, 4096, 128, 1, fp8);
    bench("B64 S8192 h128", 64, 8192, 128, 1, fp8);
    bench("B16 S4096 h128", 16, 4096, 128, 1, fp8);
    bench("B128 S2048 h128 q2", 128, 2048, 128, 2, fp8);
    bench("B1 S131072 h16", 1, 131072, 16, 1, fp8);
    bench("B64 S4096 h16", 64, 4096, 16, 1, fp8);
    bench("B1 S2048 h128", 1, 2048, 128, 1, fp8);
  }
  return 0;
}
