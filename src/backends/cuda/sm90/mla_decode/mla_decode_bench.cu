// Times of MLA decode attention: plan apart, kernel and merge together, L2 flushed between. Argument: bf16,
// fp8, or none for both.
#include <algorithm>
#include <cmath>
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

// Microseconds of a call.
float bench(const char* name, const std::vector<SequenceSpec>& seqs, int heads, bool fp8,
            MlaSplit split = MlaSplit::balanced) {
  constexpr std::size_t kFlush = 256 << 20;
  static DeviceArray<unsigned char> flush(kFlush);
  DeviceBatch d(Batch(seqs, heads, 1), fp8, 0.3f, 7);
  d.plan_args.shape.split = d.args.shape.split = split;
  const float plan =
      median_us(10, flush.get(), kFlush, [&] { MLA_CUDA(mla_decode_plan(d.plan_args, nullptr)); });
  const float us = median_us(21, flush.get(), kFlush, [&] { MLA_CUDA(mla_decode(d.args, nullptr)); });
  double flops = 0, bytes = 0;
  for (const SequenceSpec& s : seqs) {
    flops += 2.0 * s.query * heads * s.context * (576 + 512);
    bytes += static_cast<double>(s.context) * (fp8 ? 640 : 1152);
  }
  std::printf("%s  %-28s %8.1f us  %6.1f TFLOPS  %5.2f TB/s  plan %.1f us\n", fp8 ? "fp8 " : "bf16", name, us,
              flops / us * 1e-6, bytes / us * 1e-6, plan);
  std::fflush(stdout);
  return us;
}

std::vector<SequenceSpec> equal(int seqs, int context, int query = 1) {
  return std::vector<SequenceSpec>(static_cast<std::size_t>(seqs), {context, query});
}

// Contexts drawn so that every octave is as likely, against as many tokens in equal contexts.
void mixed(bool fp8) {
  std::mt19937 rng(5);
  std::vector<SequenceSpec> seqs;
  std::int64_t total = 0;
  for (int i = 0; i < 128; ++i) {
    const double octave = 6 + 9.0 * (static_cast<double>(rng()) + 0.5) / 4294967296.0;  // 64 .. 32K
    seqs.push_back({static_cast<int>(std::exp2(octave)), 1});
    total += seqs.back().context;
  }
  const float us = bench("B128 S64..32K h128", seqs, 128, fp8);
  const float even = bench("B128, as many tokens h128", equal(128, static_cast<int>(total / 128)), 128, fp8);
  std::printf("      mixed at %.0f%% of the equal ones' rate\n", 100 * even / us);
}

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  using trireme::cuda::bench;
  using trireme::cuda::equal;
  for (const bool fp8 : {false, true}) {
    if (argc > 1 && (std::strcmp(argv[1], "fp8") == 0) != fp8) continue;
    bench("B64 S2048 h128", equal(64, 2048), 128, fp8);
    bench("B256 S2048 h128", equal(256, 2048), 128, fp8);
    bench("B256 S4096 h128", equal(256, 4096), 128, fp8);
    bench("B64 S8192 h128", equal(64, 8192), 128, fp8);
    bench("B16 S4096 h128", equal(16, 4096), 128, fp8);
    bench("B128 S2048 h128 q2", equal(128, 2048, 2), 128, fp8);
    bench("B1 S131072 h16", equal(1, 131072), 16, fp8);
    bench("B1 S131072 h16, undivided", equal(1, 131072), 16, fp8, trireme::cuda::MlaSplit::never);
    bench("B64 S4096 h16", equal(64, 4096), 16, fp8);
    bench("B1 S2048 h128", equal(1, 2048), 128, fp8);
    trireme::cuda::mixed(fp8);
  }
  for (const bool fp8 : {false, true})  // last: they warm the chip
    if (argc == 1 || (std::strcmp(argv[1], "fp8") == 0) == fp8)
      bench("B256 S8192 h128", equal(256, 8192), 128, fp8);
  return 0;
}
