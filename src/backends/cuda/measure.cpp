#include "backends/cuda/measure.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/cuda_device.h"
#include "base/clock.h"

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

Result<UploadRates> measured_upload(Backend& backend) {
  constexpr i64 kBytes = i64{2} << 30, kPinned = i64{512} << 20;
  auto& device = static_cast<CudaDevice&>(backend.device());
  ASSIGN(auto to, device.allocate(kBytes));
  ASSIGN(auto pinned, device.allocate_host(kPinned));
  auto stream = device.make_stream();
  auto timeline = device.make_timeline();
  UploadRates rates;
  std::memset(pinned.data(), 0x3c, static_cast<std::size_t>(kPinned));
  for (int i = 0; i < 4; ++i) {
    TRY(timeline->mark(*stream, "copy"));
    CUDA_TRY(cudaMemcpyAsync(to.data(), pinned.data(), kPinned, cudaMemcpyHostToDevice, handle_of(*stream)));
  }
  TRY(timeline->mark(*stream, "end"));
  ASSIGN(const auto spans, timeline->read());
  for (const auto& s : spans) rates.pinned = std::max(rates.pinned, static_cast<double>(kPinned) / s.seconds);
  pinned = {};

  auto plain = std::make_shared<std::vector<char>>(static_cast<std::size_t>(kBytes), 'x');
  device.uploader().copy(to.data(), plain->data(), kPinned, plain);  // starts the threads
  TRY(device.uploader().wait());
  const Time begin = SteadyClock().now();
  device.uploader().copy(to.data(), plain->data(), kBytes, plain);
  TRY(device.uploader().wait());
  rates.weights = static_cast<double>(kBytes) / seconds(SteadyClock().now() - begin);
  TRY(device.uploader().finish());
  return rates;
}

}  // namespace trireme::cuda
