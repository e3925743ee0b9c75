#include "backends/cuda/sm90/head_gemm/head_gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cuda/sm90/head_gemm/head_gemm_testing.cuh"
#include "backends/cuda/sm90/head_gemm/turn_codes.h"

namespace trireme::cuda {
namespace {

using namespace head_testing;

class HeadGemm : public ::testing::Test {
 protected:
  void SetUp() override {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) GTEST_SKIP() << "no GPU";
    seed_ = std::random_device{}();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed_));
  }
  std::uint64_t seed_ = 0;
};

std::vector<Bf16> multiply(const Operands& o, HeadTile tile = {}) {
  must(cudaMemset(o.out.get(), 0xFF, o.out.bytes()), "poison");
  must(head_gemm(o.args(tile), nullptr), "head_gemm");
  must(cudaDeviceSynchronize(), "head_gemm");
  return o.out.host();
}

void poison(const Operands& o) {
  poison_between<<<static_cast<unsigned>(o.shape.tokens * o.shape.heads), 32>>>(
      o.x.get(), static_cast<int>(o.x_head_stride), o.shape.k);
}

double error(const Operands& o, const std::vector<Bf16>& got) {
  DeviceBuffer<float> ref(got.size());
  head_reference<<<dim3(static_cast<unsigned>(o.shape.n / 128), static_cast<unsigned>(o.shape.heads),
                        static_cast<unsigned>(o.shape.tokens)),
                   128>>>(o.args(), ref.get());
  must(cudaDeviceSynchronize(), "reference");
  const auto expected = ref.host();
  double off = 0, all = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(__bfloat162float(got[i])) - e;
    off += d * d, all += e * e;
  }
  return std::sqrt(off / all);
}

struct Width {
  int n, k;
};
constexpr Width kWidths[] = {{512, 128}, {128, 512}, {384, 128}};

TEST_F(HeadGemm, AgreesWithFloat64ForOddNumbersOfTokens) {
  for (const bool fp8 : {false, true}) {
    for (const auto& [n, k] : kWidths) {
      for (const int tokens : {1, 3, 17, 63, 65, 127, 200, 513}) {
        for (const int heads : {3, 16}) {
          const Operands o({tokens, heads, n, k, fp8}, seed_++);
          poison(o);
          // Rounding to BF16 alone is 1.7e-3 at most.
          EXPECT_LT(error(o, multiply(o)), 2e-3)
              << tokens << " tokens, " << heads << " heads, n " << n << ", k " << k << (fp8 ? ", FP8" : "");
        }
      }
    }
  }
}

TEST_F(HeadGemm, AgreesWithFloat64ForEveryHeadOfDeepSeek) {
  for (const bool fp8 : {false, true}) {
    for (const auto& [n, k] : kWidths) {
      const Operands o({130, 128, n, k, fp8}, seed_++);
      poison(o);
      EXPECT_LT(error(o, multiply(o)), 2e-3) << "n " << n << ", k " << k << (fp8 ? ", FP8" : "");
    }
  }
}

TEST_F(HeadGemm, GivesARowTheSameBitsWhateverTheTile) {
  for (const bool fp8 : {false, true}) {
    for (const auto& [n, k] : kWidths) {
      const Operands o({333, 16, n, k, fp8}, seed_++);
      const auto first = multiply(o, {128, 1, 1});
      for (const HeadTile tile : {HeadTile{128, 1, 3}, HeadTile{64, 1, 1}, HeadTile{64, 2, 2},
                                  HeadTile{64, n / 64, 1}, HeadTile{128, n / 128, 2}}) {
        const auto other = multiply(o, tile);
        EXPECT_EQ(std::memcmp(first.data(), other.data(), first.size() * sizeof(Bf16)), 0)
            << "rows " << tile.rows << ", parts " << tile.parts << ", chunks " << tile.chunks << ", n " << n
            << (fp8 ? ", FP8" : "");
      }
      // As do fewer tokens.
      Operands few({7, 16, n, k, fp8}, seed_ - 1);
      must(cudaMemcpy(few.x.get(), o.x.get(), few.x.bytes(), cudaMemcpyDeviceToDevice), "copy");
      const auto got = multiply(few);
      EXPECT_EQ(std::memcmp(first.data(), got.data(), got.size() * sizeof(Bf16)), 0);
    }
  }
}

// Rows of q for attention over an FP8 cache: codes near the product that BF16 gives, rope values exact.
TEST_F(HeadGemm, WritesCodesWithAScaleForEachRow) {
  constexpr int kRow = 640, kHeads = 5;
  constexpr float kLatentScale = 0x1p-4f;
  for (const int tokens : {1, 17, 64, 129, 300}) {
    for (const HeadTile tile : {HeadTile{}, HeadTile{64, 1, 1}, HeadTile{64, 4, 2}, HeadTile{128, 2, 1}}) {
      const Operands o({tokens, kHeads, 512, 128, false}, seed_++);
      const auto product = multiply(o, tile);
      const std::size_t rows = static_cast<std::size_t>(tokens) * kHeads;
      const DeviceBuffer<std::uint8_t> out(rows * kRow);
      const DeviceBuffer<float> scale(rows), bound(kHeads);
      must(cudaMemset(out.get(), 0xFF, out.bytes()), "poison");
      must(cudaMemset(scale.get(), 0xFF, scale.bytes()), "poison");
      must(head_bounds(o.w.get(), kHeads, 128, 512, bound.get(), nullptr), "head_bounds");
      HeadGemmArgs a = o.args(tile);
      a.codes = {out.get(), kRow, scale.get(), bound.get(), o.x.get() + 128, kLatentScale};
      must(head_gemm(a, nullptr), "head_gemm");
      must(cudaDeviceSynchronize(), "head_gemm");
      const auto got = out.host();
      const auto scales = scale.host();
      const auto x = o.x.host();
      double off = 0, all = 0;
      for (std::size_t r = 0; r < rows; ++r) {
        int exponent;
        ASSERT_EQ(std::frexp(scales[r], &exponent), 0.5f) << "row " << r;
        float most = 0;
        for (std::size_t c = 0; c < 512; ++c) {
          __nv_fp8_e4m3 code;
          code.__x = got[r * kRow + c];
          const double want = static_cast<double>(__bfloat162float(product[r * 512 + c]));
          const double d = static_cast<double>(static_cast<float>(code) * scales[r]) - want;
          off += d * d, all += want * want;
          most = std::max(most, std::abs(static_cast<float>(code)));
        }
        EXPECT_LT(most, 448.0f) << "row " << r;
        EXPECT_GT(most, 448.0f / 32) << "row " << r;
        for (std::size_t i = 0; i < 64; ++i) {
          Bf16 rope;
          std::memcpy(&rope, &got[r * kRow + 512 + 2 * i], 2);
          ASSERT_EQ(__bfloat162float(rope) * scales[r] * kLatentScale,
                    __bfloat162float(x[r * static_cast<std::size_t>(o.x_head_stride) + 128 + i]))
              << "row " << r;
        }
      }
      EXPECT_LT(std::sqrt(off / all), 3e-2) << tokens << " tokens, rows " << tile.rows;
    }
  }
}

TEST_F(HeadGemm, QuantisesRowsOfNothing) {
  const Operands o({5, 4, 128, 512, true}, seed_);
  must(cudaMemset(o.x.get(), 0, o.x.bytes()), "zero");
  for (const Bf16 v : multiply(o)) ASSERT_EQ(__bfloat162float(v), 0.0f);
}

TEST_F(HeadGemm, TurnsStoredCodesWithTheirScales) {
  const int count = 3, rows = 256, cols = 512, stride = 4;
  std::vector<std::uint8_t> codes(std::size_t{3} * rows * cols);
  std::vector<float> scale(std::size_t{3} * 2 * stride);
  std::mt19937 random(static_cast<unsigned>(seed_));
  for (auto& c : codes) c = static_cast<std::uint8_t>(random());
  for (auto& v : scale) v = static_cast<float>(random() % 1000);
  const DeviceBuffer<std::uint8_t> from(codes), to(codes.size());
  const DeviceBuffer<float> scales(scale), turned(std::size_t{3} * 4 * stride);
  must(cudaMemset(turned.get(), 0xFF, turned.bytes()), "poison");
  must(turn_codes({from.get(), scales.get(), stride, to.get(), turned.get(), stride, count, rows, cols},
                  nullptr),
       "turn_codes");
  const auto out = to.host();
  const auto out_scale = turned.host();
  for (int i = 0; i < count; ++i) {
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c)
        ASSERT_EQ(out[static_cast<std::size_t>((i * cols + c) * rows + r)],
                  codes[static_cast<std::size_t>((i * rows + r) * cols + c)]);
    for (int c = 0; c < cols / 128; ++c)
      for (int r = 0; r < stride; ++r)
        ASSERT_EQ(out_scale[static_cast<std::size_t>((i * 4 + c) * stride + r)],
                  r < rows / 128 ? scale[static_cast<std::size_t>((i * 2 + r) * stride + c)] : 0.0f);
  }
}

TEST_F(HeadGemm, RefusesWhatItDoesNotTake) {
  const Operands o({5, 4, 128, 512, false}, seed_);
  HeadGemmArgs a = o.args();
  a.shape.k = 256;
  EXPECT_EQ(head_gemm(a, nullptr), cudaErrorInvalidValue);
  a = o.args();
  a.x_token_stride += 4;
  EXPECT_EQ(head_gemm(a, nullptr), cudaErrorInvalidValue);
  a = o.args();
  a.tile = {128, 2, 1};
  EXPECT_EQ(head_gemm(a, nullptr), cudaErrorInvalidValue);
  a = o.args();
  a.shape.tokens = 0;
  EXPECT_EQ(head_gemm(a, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace trireme::cuda
