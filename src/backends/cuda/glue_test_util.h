// What the tests of the elementwise and routing kernels share: a GPU with a stream, memory on both sides,
// BF16 matrices with strides.
#pragma once
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "backends/cuda/cuda_device.h"
#include "ops/ops.h"

namespace trireme::cuda::testing_glue {

inline Stream* gpu_stream() {
  static const std::unique_ptr<CudaDevice> device = [] {
    auto d = CudaDevice::open();
    return d ? std::move(*d) : nullptr;
  }();
  static const std::unique_ptr<Stream> stream = device ? device->make_stream() : nullptr;
  return stream.get();
}

#define NEED_GPU()                                            \
  if (::trireme::cuda::testing_glue::gpu_stream() == nullptr) \
  GTEST_SKIP() << "no GPU of compute capability 9.0"
#define EXPECT_OK(expr)                                               \
  do {                                                                \
    const Status status_ = (expr);                                    \
    EXPECT_TRUE(status_) << (status_ ? "" : status_.error().message); \
  } while (false)

// A new seed each run, printed so that a failure can be repeated with TRIREME_TEST_SEED in the environment.
inline std::mt19937_64& rng() {
  static std::mt19937_64 engine = [] {
    const char* given = std::getenv("TRIREME_TEST_SEED");
    const u64 seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    fmt::print("TRIREME_TEST_SEED={}\n", seed);
    return std::mt19937_64(seed);
  }();
  return engine;
}
inline float normal() { return std::normal_distribution<float>(0, 1)(rng()); }
inline i32 below(i32 n) { return std::uniform_int_distribution<i32>(0, n - 1)(rng()); }

inline void done() {
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
}

// An array on the host and on the GPU.
template <class T>
struct Both {
  std::vector<T> host;
  std::shared_ptr<T> gpu;

  explicit Both(std::size_t n, T fill = {}) : Both(std::vector<T>(n, fill)) {}
  explicit Both(std::vector<T> v) : host(std::move(v)) {
    void* p = nullptr;
    cudaMalloc(&p, host.size() * sizeof(T) + 256);
    gpu = std::shared_ptr<T>(static_cast<T*>(p), [](T* q) { cudaFree(q); });
    up();
  }
  void up() {
    cudaMemcpy(gpu.get(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    cudaDeviceSynchronize();  // our streams do not wait for the default one
  }
  std::vector<T>& down() {
    done();
    cudaMemcpy(host.data(), gpu.get(), host.size() * sizeof(T), cudaMemcpyDeviceToHost);
    return host;
  }
  In<T> in() const { return {gpu.get(), host.size()}; }
  Out<T> out() const { return {gpu.get(), host.size()}; }
};

constexpr u16 kNan = 0x7fc0;
inline float value(u16 bits) { return std::bit_cast<float>(static_cast<u32>(bits) << 16); }

// A BF16 matrix whose rows lie `stride` apart, `skew` elements into its memory. NaN until filled, and NaN
// between its rows.
struct Rows {
  i64 rows, n, stride, skew;
  Both<u16> mem;
  Rows(i64 r, i64 columns, i64 padding = 0, i64 first = 0)
      : rows(r),
        n(columns),
        stride(columns + padding),
        skew(first),
        mem(static_cast<std::size_t>(r * stride + first), kNan) {}
  u16& bits(i64 r, i64 i) { return mem.host[static_cast<std::size_t>(skew + r * stride + i)]; }
  float at(i64 r, i64 i) { return value(bits(r, i)); }
  Rows& randomise(float scale = 1) {
    for (i64 r = 0; r < rows; ++r)
      for (i64 i = 0; i < n; ++i) bits(r, i) = std::bit_cast<u16>(BF16(normal() * scale));
    mem.up();
    return *this;
  }
  Rows& down() {
    mem.down();
    return *this;
  }
  View view() { return View(mem.gpu.get() + skew, DType::kBF16, {rows, n}, stride); }
  View view(Shape s, i64 row_stride) { return View(mem.gpu.get() + skew, DType::kBF16, s, row_stride); }
  // Between and before the rows nothing was written.
  void expect_padding_untouched() {
    for (i64 i = 0; i < skew; ++i) ASSERT_EQ(mem.host[static_cast<std::size_t>(i)], kNan);
    for (i64 r = 0; r < rows; ++r)
      for (i64 i = n; i < stride; ++i) ASSERT_EQ(bits(r, i), kNan) << r << ", " << i;
  }
};

struct QuantRows {
  i64 rows, k, padded;
  Both<u8> codes;
  Both<float> scale;
  QuantRows(i64 r, i64 columns)
      : rows(r),
        k(columns),
        padded(quantised_rows(r)),
        codes(static_cast<std::size_t>(r * columns), 0x7f),
        scale(static_cast<std::size_t>(ceil_div(columns, 128) * padded), std::nanf("")) {}
  Quantised view() {
    return {View(codes.gpu.get(), DType::kF8E4M3, {rows, k}),
            View(scale.gpu.get(), DType::kF32, {ceil_div(k, 128), padded})};
  }
  u8 code(i64 r, i64 i) const { return codes.host[static_cast<std::size_t>(r * k + i)]; }
  float scale_of(i64 r, i64 b) const { return scale.host[static_cast<std::size_t>(b * padded + r)]; }
  QuantRows& down() {
    codes.down();
    scale.down();
    return *this;
  }
};

// The scale and the codes that DeepSeek-V3's recipe makes of 128 values, or of fewer at the end of a row.
inline float block_scale(Rows& x, i64 r, i64 b) {
  float most = 1e-30f;
  for (i64 i = b * 128; i < std::min(x.n, b * 128 + 128); ++i) most = std::max(most, std::fabs(x.at(r, i)));
  return most / 448.0f;
}
inline void expect_quantised(const QuantRows& q, Rows& x) {
  for (i64 r = 0; r < x.rows; ++r) {
    for (i64 i = 0; i < x.n; ++i) {
      const float scale = block_scale(x, r, i / 128);
      ASSERT_EQ(q.scale_of(r, i / 128), scale) << "row " << r << ", column " << i;
      ASSERT_EQ(q.code(r, i), float_to_f8e4m3(x.at(r, i) / scale)) << "row " << r << ", column " << i;
    }
  }
}

inline void expect_close(double got, double want, double tolerance, i64 r, i64 i) {
  ASSERT_LE(std::fabs(got - want), tolerance) << got << " for " << want << " at " << r << ", " << i;
}

}  // namespace trireme::cuda::testing_glue
