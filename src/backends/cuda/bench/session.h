// A run of bench_kernels: its streams and events, random device memory, and the clock.
#pragma once
#include <array>
#include <memory>

#include "backends/cuda/bench/bench_kernels.h"
#include "backends/cuda/cublaslt/cublaslt.h"
#include "backends/cuda/cuda_device.h"
#include "backends/cuda/sm90/gemm/gemm.h"

namespace trireme::cuda {

// What random memory holds.
enum class Noise : u8 {
  kBf16,      // normal, deviation 1
  kF32,       // normal, deviation 3, as logits are
  kCodes,     // e4m3 of normal values, deviation 100: finite, as quantised rows are
  kScales,    // float32 of [0.005, 0.02)
  kFp8Cache,  // tokens of DeepSeek-V3's FP8 cache: codes, scales, BF16
  kCount,
};

using Launch = std::function<Status()>;

// One thread.
class BenchSession {
 public:
  static Result<std::unique_ptr<BenchSession>> open(Backend& backend, const KernelBenchOptions& options);
  ~BenchSession();
  BenchSession(const BenchSession&) = delete;
  BenchSession& operator=(const BenchSession&) = delete;

  const Ops& ops() const { return backend_.ops(); }
  Backend& backend() const { return backend_; }
  CudaDevice& device() const { return device_; }
  CudaStream& stream() const { return *work_; }
  // Where the CTAs of our products meet (GemmWorkspace), for all rows.
  GemmWorkspace meeting_place() const { return {meeting_.data(), meeting_.bytes()}; }
  CublasLt* cublaslt() const { return lt_.get(); }  // null where the library is missing

  bool wanted(const KernelTime& row) const;
  // Times what `launch` queues on stream(), and `rival` (cuBLASLt with the same product) if it is given.
  Status measure(KernelTime row, const Launch& launch, const Launch& rival = nullptr);
  // Medians in microseconds of what each queues on stream(). They take turns, so that clocks are
  // alike for all; those far behind the fastest get fewer. REQUIRES: not empty.
  Result<std::vector<double>> times_us(std::span<const Launch> launches);
  Result<double> time_us(const Launch& launch);
  double floor_us(const KernelTime& row) const;
  // Device memory with random contents, ready for use on stream().
  Result<Buffer> random(Noise noise, i64 bytes);
  const BenchYardsticks& yardsticks() const { return results_.yardsticks; }
  KernelBench& results() { return results_; }

 private:
  BenchSession(Backend& backend, const KernelBenchOptions& options);
  Status begin();
  Result<double> once_us(const Launch& launch);
  void rest();
  Status fill_pattern(Noise noise);

  Backend& backend_;
  CudaDevice& device_;
  const KernelBenchOptions& options_;
  std::unique_ptr<CublasLt> lt_;
  std::unique_ptr<CudaStream> work_, flush_;
  Buffer flushed_bytes_, meeting_;
  std::array<Buffer, static_cast<std::size_t>(Noise::kCount)> patterns_;
  cudaEvent_t flushed_ = nullptr, begin_ = nullptr, end_ = nullptr;
  int flushes_ = 0;
  double busy_us_ = 0;  // since the last rest
  KernelBench results_;
};

// Device memory of one row of the table, given back with it. The first failure is kept until status() tells
// it; what is asked for after it is empty.
class RowMemory {
 public:
  explicit RowMemory(BenchSession& session) : session_(session) {}
  const Status& status() const { return status_; }

  View bf16(Shape shape) { return {noise(Noise::kBf16, shape.elements() * 2), DType::kBF16, shape}; }
  View f32(Shape shape) { return {noise(Noise::kF32, shape.elements() * 4), DType::kF32, shape}; }
  View scales(Shape shape) { return {noise(Noise::kScales, shape.elements() * 4), DType::kF32, shape}; }
  Quantised quantised(i64 rows, i64 k) {
    const Shape scale{ceil_div(k, 128), quantised_rows(rows)};
    return {View(noise(Noise::kCodes, rows * k), DType::kF8E4M3, {rows, k}), scales(scale)};
  }
  void* noise(Noise kind, i64 bytes) { return kept(session_.random(kind, bytes)); }
  Buffer buffer(Noise kind, i64 bytes) {
    auto made = session_.random(kind, bytes);
    kept(made);
    return made ? *made : Buffer();
  }
  // For results.
  View room(DType type, Shape shape) {
    return {kept(session_.device().allocate(shape.elements() * size_of(type))), type, shape};
  }
  template <class T>
  std::span<T> room(i64 n) {
    return {static_cast<T*>(kept(session_.device().allocate(n * static_cast<i64>(sizeof(T))))),
            static_cast<std::size_t>(n)};
  }
  template <class T>
  std::span<T> copy(const std::vector<T>& host) {
    const auto n = static_cast<i64>(host.size());
    const std::span<T> to = room<T>(n);
    if (status_)
      status_ = session_.device().copy_in(to.data(), host.data(), n * static_cast<i64>(sizeof(T)),
                                          session_.stream());
    if (status_) status_ = session_.stream().synchronize();  // `host` may go away
    return to;
  }

 private:
  void* kept(Result<Buffer> made) {
    if (!made && status_) status_ = tl::unexpected(made.error());
    if (!made) return nullptr;
    held_.push_back(std::move(*made));
    return held_.back().data();
  }
  BenchSession& session_;
  Status status_;
  std::vector<Buffer> held_;
};

// The error of a run that had nothing to measure.
tl::unexpected<Error> nothing_matches(const KernelBenchOptions& options);

// The families of rows (one file each).
Status bench_products(BenchSession& session);
Status bench_attention(BenchSession& session);
Status bench_elementwise(BenchSession& session);
Status bench_routing(BenchSession& session);
Status bench_sampling(BenchSession& session);

}  // namespace trireme::cuda
