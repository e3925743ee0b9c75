#include "backends/cuda/bench/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "backends/cuda/measure.h"
#include "base/rng.h"

namespace trireme::cuda {
namespace {

constexpr i64 kFlushBytes = i64{256} << 20;  // five times the L2
constexpr i64 kPatternBytes = i64{16} << 20;
constexpr i64 kLatent = 512, kCacheToken = 640;  // of Noise::kFp8Cache
constexpr double kEnoughUs = 25000;              // of one kernel's runs together
constexpr double kFarBehind = 1.2;               // of several, those that are not worth more than kFewRounds
constexpr int kFewRounds = 3;
// A GPU that has worked hard lowers its clock and takes up to 100 ms to raise it again, which would add a
// fifth to whatever is timed next.
constexpr double kRest = 2, kLongestRestUs = 100000;

template <class T>
void put(std::vector<u8>& to, i64 at, T value) {
  std::memcpy(to.data() + at, &value, sizeof value);
}

// Sums of uniform numbers: near enough to normal, and quick.
float noise_of(Rng& rng) {
  double sum = -4;
  for (int i = 0; i < 4; ++i) {
    const u64 x = rng.next();
    sum += static_cast<double>(x >> 32) * 0x1.0p-32 + static_cast<double>(x & 0xffffffffu) * 0x1.0p-32;
  }
  return static_cast<float>(sum * std::sqrt(12.0 / 8.0));
}
float scale_of(Rng& rng) { return static_cast<float>(0.005 + 0.015 * rng.uniform()); }

std::vector<u8> pattern_of(Noise noise) {
  Rng rng(1 + static_cast<u64>(noise));
  // Whole tokens, whole elements.
  std::vector<u8> bytes(static_cast<std::size_t>(
      noise == Noise::kFp8Cache ? kPatternBytes / kCacheToken * kCacheToken : kPatternBytes));
  const i64 size = static_cast<i64>(bytes.size());
  // Drawing is slow beside the rest: a small table, read in random order.
  std::vector<float> drawn(1 << 16);
  for (float& v : drawn) v = noise_of(rng);
  const auto next = [&] { return drawn[rng.below(drawn.size())]; };
  switch (noise) {
    case Noise::kBf16:
      for (i64 i = 0; i < size; i += 2) put(bytes, i, BF16(next()));
      break;
    case Noise::kF32:
      for (i64 i = 0; i < size; i += 4) put(bytes, i, 3 * next() + static_cast<float>(rng.uniform()) * 1e-3f);
      break;
    case Noise::kScales:
      for (i64 i = 0; i < size; i += 4) put(bytes, i, scale_of(rng));
      break;
    case Noise::kCodes:
      for (i64 i = 0; i < size; ++i) put(bytes, i, float_to_f8e4m3(100 * next()));
      break;
    case Noise::kFp8Cache:
      for (i64 token = 0; token < size; token += kCacheToken) {
        for (i64 i = 0; i < kLatent; ++i) put(bytes, token + i, float_to_f8e4m3(100 * next()));
        for (i64 i = kLatent; i < kCacheToken; i += 2) put(bytes, token + i, BF16(next()));
      }
      break;
    case Noise::kCount:
      break;
  }
  return bytes;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

BenchSession::BenchSession(Backend& backend, const KernelBenchOptions& options)
    : backend_(backend), device_(static_cast<CudaDevice&>(backend.device())), options_(options) {}

BenchSession::~BenchSession() {
  for (const cudaEvent_t e : {begin_, end_, flushed_})
    if (e != nullptr) cudaEventDestroy(e);
}

Result<std::unique_ptr<BenchSession>> BenchSession::open(Backend& backend,
                                                         const KernelBenchOptions& options) {
  std::unique_ptr<BenchSession> s(new BenchSession(backend, options));
  TRY(s->begin());
  if (options.started) options.started(s->yardsticks());
  return s;
}

Status BenchSession::begin() {
  if (auto lt = CublasLt::open()) lt_ = std::move(*lt);
  ASSIGN(work_, CudaStream::create(device_));
  ASSIGN(flush_, CudaStream::create(device_));
  ASSIGN(flushed_bytes_, device_.allocate(kFlushBytes));
  ASSIGN(meeting_, device_.allocate(gemm_workspace_bytes(device_.sms())));
  CUDA_TRY(cudaMemsetAsync(meeting_.data(), 0, static_cast<std::size_t>(meeting_.bytes()), work_->handle()));
  CUDA_TRY(cudaEventCreateWithFlags(&flushed_, cudaEventDisableTiming));
  for (auto* e : {&begin_, &end_}) CUDA_TRY(cudaEventCreate(e));
  BenchYardsticks& y = results_.yardsticks;
  y.cublaslt = lt_ != nullptr;
  ASSIGN(y.copy_bandwidth, measured_copy_bandwidth(backend_));
  busy_us_ = kLongestRestUs;
  ASSIGN(y.event_us, time_us([] { return Status(); }));
  return {};
}

bool BenchSession::wanted(const KernelTime& row) const {
  return (row.kernel + " " + row.shape).find(options_.filter) != std::string::npos;
}

// The flush runs on a stream of its own, and the kernel's stream waits for it by an event: a kernel that may
// begin while the one before it on its stream drains would otherwise begin, untimed, during the flush.
Result<double> BenchSession::once_us(const Launch& launch) {
  const cudaStream_t work = work_->handle(), flush = flush_->handle();
  CUDA_TRY(cudaMemsetAsync(flushed_bytes_.data(), ++flushes_, kFlushBytes, flush));
  CUDA_TRY(cudaEventRecord(flushed_, flush));
  CUDA_TRY(cudaStreamWaitEvent(work, flushed_));
  CUDA_TRY(cudaEventRecord(begin_, work));
  TRY(launch());
  CUDA_TRY(cudaEventRecord(end_, work));
  TRY(work_->synchronize());
  float ms = 0;
  CUDA_TRY(cudaEventElapsedTime(&ms, begin_, end_));
  const double us = static_cast<double>(ms) * 1e3;
  busy_us_ += us;
  return us;
}

// In proportion to what ran since the rest before.
void BenchSession::rest() {
  std::this_thread::sleep_for(
      std::chrono::duration<double, std::micro>(std::min(kRest * busy_us_, kLongestRestUs)));
  busy_us_ = 0;
}

Result<std::vector<double>> BenchSession::times_us(std::span<const Launch> launches) {
  rest();
  std::vector<double> least;  // so far
  for (const Launch& launch : launches) {
    TRY(launch());  // scratch grows, libraries choose
    TRY(work_->synchronize());
    ASSIGN(const double us, once_us(launch));
    busy_us_ += us;  // of the run before it
    least.push_back(us);
    if (launches.size() > 1) rest();
  }
  const int all = std::max(1, options_.repeats), quarter = (all + 3) / 4;
  std::vector<std::vector<double>> times(launches.size());
  for (int round = 0; round < all; ++round) {
    const double fastest = *std::min_element(least.begin(), least.end());
    for (std::size_t i = 0; i < launches.size(); ++i) {
      if (round >= kFewRounds && least[i] > kFarBehind * fastest) continue;
      if (round >= quarter && round * least[i] > kEnoughUs) continue;
      ASSIGN(const double us, once_us(launches[i]));
      times[i].push_back(us);
      least[i] = std::min(least[i], us);
    }
    if (launches.size() > 1) rest();
  }
  std::vector<double> medians;
  medians.reserve(times.size());
  for (auto& t : times) medians.push_back(median(std::move(t)));
  return medians;
}

Result<double> BenchSession::time_us(const Launch& launch) {
  ASSIGN(const auto medians, times_us({&launch, 1}));
  return medians.front();
}

double BenchSession::floor_us(const KernelTime& row) const {
  return 1e6 * std::max(row.bytes / yardsticks().copy_bandwidth,
                        row.flops / (row.fp8 ? kDatasheetFp8 : kDatasheetBf16));
}

Status BenchSession::measure(KernelTime row, const Launch& launch, const Launch& rival) {
  auto us = time_us(launch);
  if (!us) return fail(us.error().code, "{} {}: {}", row.kernel, row.shape, us.error().message);
  row.us = *us;
  if (rival) {
    auto other = time_us(rival);
    // A product that the library refuses has no figure; a GPU that is lost ends the run.
    if (!other && other.error().code == ErrorCode::kUnavailable)
      return fail(other.error().code, "cuBLASLt, {}: {}", row.shape, other.error().message);
    if (other) row.cublaslt_us = *other;
  }
  row.floor_us = floor_us(row);
  if (options_.measured) options_.measured(row);
  results_.rows.push_back(std::move(row));
  return {};
}

Status BenchSession::fill_pattern(Noise noise) {
  Buffer& pattern = patterns_[static_cast<std::size_t>(noise)];
  if (pattern.data() != nullptr) return {};
  const auto bytes = pattern_of(noise);
  const i64 size = static_cast<i64>(bytes.size());
  ASSIGN(auto buffer, device_.allocate(size));
  TRY(device_.copy_in(buffer.data(), bytes.data(), size, *work_));
  TRY(work_->synchronize());
  pattern = std::move(buffer);
  return {};
}

Result<Buffer> BenchSession::random(Noise noise, i64 bytes) {
  TRY(fill_pattern(noise));
  const Buffer& pattern = patterns_[static_cast<std::size_t>(noise)];
  ASSIGN(auto made, device_.allocate(bytes));
  for (i64 at = 0; at < bytes; at += pattern.bytes())
    CUDA_TRY(cudaMemcpyAsync(static_cast<char*>(made.data()) + at, pattern.data(),
                             static_cast<std::size_t>(std::min(pattern.bytes(), bytes - at)),
                             cudaMemcpyDeviceToDevice, work_->handle()));
  return made;
}

}  // namespace trireme::cuda
