#include "backends/cuda/measure.h"

#include <algorithm>

#include "backends/cuda/cuda_device.h"

namespace trireme::cuda {

Result<double> measured_copy_bandwidth(Backend& backend) {
  constexpr i64 kBytes = i64{1} << 30;
  constexpr int kRuns = 9;
  auto& device = static_cast<CudaDevice&>(backend.device());
  ASSIGN(auto from, device.allocate(kBytes));
  ASSIGN(auto to, device.allocate(kBytes));
  auto stream = device.make_stream();
  auto timeline = device.make_timeline();
  CUDA_TRY(cudaMemsetAsync(from.data(), 0x3c, kBytes, handle_of(*stream)));
  for (int i = 0; i <= kRuns; ++i) {
    TRY(timeline->mark(*stream, "copy"));
    CUDA_TRY(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, handle_of(*stream)));
  }
  TRY(timeline->mark(*stream, "end"));
  ASSIGN(auto spans, timeline->read());
  std::sort(spans.begin(), spans.end(), [](const auto& a, const auto& b) { return a.seconds < b.seconds; });
  return 2.0 * static_cast<double>(kBytes) / spans[spans.size() / 2].seconds;
}

}  // namespace trireme::cuda
