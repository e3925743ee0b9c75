#include "backends/cuda/sm90/router_gemm/router_gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/cuda/heuristics/router_tile.h"
#include "backends/cuda/sm90/gemm/gemm_testing.cuh"

namespace trireme::cuda {
namespace {

using namespace gemm_testing;
using Bf16 = __nv_bfloat16;

class RouterGemm : public ::testing::Test {
 protected:
  void SetUp() override {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) GTEST_SKIP() << "no GPU";
    seed_ = std::random_device{}();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed_));
  }
  std::uint64_t seed_ = 0;
};

std::size_t size(std::int64_t a, std::int64_t b) { return static_cast<std::size_t>(a * b); }

// Rows of x end in 8 values of NaN, rows of out in 3 more floats.
struct Operands {
  int rows, n, k;
  DeviceBuffer<Bf16> x, w;
  DeviceBuffer<float> out;
  DeviceBuffer<int> owner;

  Operands(int rows_of, int n_of, int k_of, std::uint64_t seed)
      : rows(rows_of),
        n(n_of),
        k(k_of),
        x(size(rows, k + 8)),
        w(size(n, k)),
        out(size(rows, n + 3)),
        owner(static_cast<std::size_t>(rows)) {
    must(cudaMemset(owner.get(), 0, owner.bytes()), "owner");
    must(cudaMemset(x.get(), 0xFF, x.bytes()), "poison x");
    const DeviceBuffer<Bf16> dense(size(rows, k));
    fill_normal<Bf16><<<256, 256>>>(dense.get(), dense.bytes() / 2, seed, 1.0f);
    fill_normal<Bf16><<<256, 256>>>(w.get(), w.bytes() / 2, seed + 50, 1.0f);
    must(cudaMemcpy2D(x.get(), static_cast<std::size_t>(k + 8) * 2, dense.get(),
                      static_cast<std::size_t>(k) * 2, static_cast<std::size_t>(k) * 2,
                      static_cast<std::size_t>(rows), cudaMemcpyDeviceToDevice),
         "copy");
  }
  std::vector<float> multiply(int columns, int of_rows) const {
    must(cudaMemset(out.get(), 0xFF, out.bytes()), "poison");
    must(router_gemm({.x = x.get(),
                      .x_stride = k + 8,
                      .w = w.get(),
                      .out = out.get(),
                      .out_stride = n + 3,
                      .rows = of_rows,
                      .n = n,
                      .k = k,
                      .columns = columns},
                     nullptr),
         "router_gemm");
    must(cudaDeviceSynchronize(), "router_gemm");
    return out.host();
  }
};

double error(const Operands& o, const std::vector<float>& got) {
  const DeviceBuffer<float> ref(size(o.rows, o.n));
  reference<Bf16><<<dim3(static_cast<unsigned>(o.n + 255) / 256, static_cast<unsigned>(o.rows)), 256>>>(
      o.x.get(), o.k + 8, nullptr, 0, o.w.get(), nullptr, 0, o.owner.get(), o.n, o.k, ref.get());
  must(cudaDeviceSynchronize(), "reference");
  const auto expected = ref.host();
  double off = 0, all = 0;
  for (int r = 0; r < o.rows; ++r) {
    for (int c = 0; c < o.n; ++c) {
      const double e = static_cast<double>(expected[size(r, o.n) + static_cast<std::size_t>(c)]);
      const double d = static_cast<double>(got[size(r, o.n + 3) + static_cast<std::size_t>(c)]) - e;
      off += d * d, all += e * e;
    }
    for (int c = o.n; c < o.n + 3; ++c)
      EXPECT_TRUE(std::isnan(got[size(r, o.n + 3) + static_cast<std::size_t>(c)])) << "written behind a row";
  }
  return std::sqrt(off / all);
}

TEST_F(RouterGemm, AgreesWithFloat64) {
  struct Matrix {
    int n, k;
  };
  for (const auto& [n, k] :
       {Matrix{256, 7168}, Matrix{160, 5120}, Matrix{8, 4096}, Matrix{37, 200}, Matrix{64, 8}}) {
    for (const int rows : {1, 3, 17, 63, 65, 127, 200}) {
      const Operands o(rows, n, k, seed_++);
      for (const int columns : {0, 16, 32, 64, 128})
        EXPECT_LT(error(o, o.multiply(columns, rows)), 1e-5)
            << rows << " rows, n " << n << ", k " << k << ", columns " << columns;
    }
  }
}

TEST_F(RouterGemm, GivesARowTheSameBitsWhateverTheTile) {
  const Operands o(150, 256, 7168, seed_);
  const auto first = o.multiply(16, 150);
  for (const int columns : {32, 64, 128})
    EXPECT_EQ(std::memcmp(first.data(), o.multiply(columns, 150).data(), first.size() * 4), 0) << columns;
  EXPECT_EQ(std::memcmp(first.data(), o.multiply(0, 5).data(), size(5, o.n + 3) * 4), 0);
}

TEST_F(RouterGemm, HoldsUnderManyLaunches) {
  const Operands o(70, 256, 7168, seed_);
  const auto first = o.multiply(0, 70);
  for (int i = 0; i < 2000; ++i) {
    must(router_gemm({.x = o.x.get(),
                      .x_stride = o.k + 8,
                      .w = o.w.get(),
                      .out = o.out.get(),
                      .out_stride = o.n + 3,
                      .rows = 70,
                      .n = o.n,
                      .k = o.k},
                     nullptr),
         "router_gemm");
  }
  must(cudaDeviceSynchronize(), "router_gemm");
  EXPECT_EQ(std::memcmp(first.data(), o.out.host().data(), first.size() * 4), 0);
}

}  // namespace
}  // namespace trireme::cuda
