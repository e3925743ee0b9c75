#include "backends/cuda/sm90/gemm/gemm_swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/cuda/heuristics/swiglu_choice.h"
#include "backends/cuda/sm90/gemm/gemm_testing.cuh"

namespace trireme::cuda {
namespace {

using namespace gemm_testing;

struct SwigluCase {
  RowLayout layout;
  std::vector<int> rows;  // of each expert
  int max_m;              // masked
  int n, k;
  bool device_count = false;  // dense: with a count on the device
};

constexpr int kSms = 20;       // so that also small cases have more tiles than CTAs
constexpr int kSpareRows = 5;  // that belong to nobody, behind the last

std::uint64_t swiglu_seed() {
  static const std::uint64_t seed = std::random_device{}();
  static bool said = false;
  if (!said) std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  said = true;
  return seed;
}

bool no_gpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0;
}

__global__ void shrink(float* p, std::size_t count, float by) {
  for (std::size_t i = blockIdx.x * std::size_t{256} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * 256)
    p[i] *= by;
}

// Operands on the device with NaN wherever nobody should look, and float64 sums of gate and up.
struct SwigluProblem {
  SwigluCase c;
  std::vector<int> owner;  // [rows]: expert, or -1
  int rows, k_blocks;
  std::int64_t x_stride, x_scale_stride, scale_stride, out_stride;
  int w_scale_stride;
  DeviceBuffer<int> row_expert, counts;
  DeviceBuffer<__nv_fp8_e4m3> x, w;
  DeviceBuffer<float> x_scale, w_scale, gate_up;

  static std::vector<int> owners(const SwigluCase& c) {
    std::vector<int> o;
    for (std::size_t e = 0; e < c.rows.size(); ++e) {
      const std::size_t begin = o.size();
      o.insert(o.end(), static_cast<std::size_t>(c.rows[e]), static_cast<int>(e));
      if (c.layout == RowLayout::masked) o.resize(begin + static_cast<std::size_t>(c.max_m), -1);
    }
    if (c.layout == RowLayout::packed || c.device_count) o.resize(o.size() + kSpareRows, -1);
    return o;
  }
  static std::vector<int> count_words(const SwigluCase& c) {
    std::vector<int> v = c.rows;
    for (std::size_t e = 1; e < v.size() && c.layout == RowLayout::packed; ++e) v[e] += v[e - 1];
    return v;
  }
  std::size_t weight_rows() const { return c.rows.size() * 2 * static_cast<std::size_t>(c.n); }

  explicit SwigluProblem(const SwigluCase& of)
      : c(of),
        owner(owners(of)),
        rows(static_cast<int>(owner.size())),
        k_blocks((of.k + 127) / 128),
        x_stride((of.k + 15) / 16 * 16 + 32),
        x_scale_stride((rows + 3) / 4 * 4 + 4),
        scale_stride(rows + 3),
        out_stride(of.n + 8),
        w_scale_stride((k_blocks + 3) / 4 * 4),
        row_expert(owner),
        counts(count_words(of)),
        x(static_cast<std::size_t>(rows * x_stride)),
        w(weight_rows() * static_cast<std::size_t>(of.k)),
        x_scale(static_cast<std::size_t>(k_blocks * x_scale_stride)),
        w_scale(weight_rows() / 128 * static_cast<std::size_t>(w_scale_stride)),
        gate_up(static_cast<std::size_t>(rows) * 2 * static_cast<std::size_t>(of.n)) {
    const std::uint64_t seed = swiglu_seed();
    __nv_fp8_e4m3 nan;
    std::memset(&nan, 0x7F, sizeof nan);
    must(cudaMemset(x.get(), 0x7F, x.bytes()), "poison x");
    fill_normal<<<256, 256>>>(x.get(), x.bytes(), seed + 100, 100.0f);
    fill_normal<<<256, 256>>>(w.get(), w.bytes(), seed + 200, 100.0f);
    fill_scales<<<64, 256>>>(x_scale.get(), x_scale.bytes() / 4, seed + 300);
    fill_scales<<<64, 256>>>(w_scale.get(), w_scale.bytes() / 4, seed + 400);
    // So that gates lie around the bend of silu: sums of k products of some 1e4 and two scales of 1/128.
    shrink<<<64, 256>>>(w_scale.get(), w_scale.bytes() / 4, 2.0f / std::sqrt(static_cast<float>(c.k)));
    poison_rows<<<static_cast<unsigned>(rows), 256>>>(x.get(), x_stride, c.k, row_expert.get(), nan);
    poison_scales<<<1, 256>>>(x_scale.get(), x_scale_stride, k_blocks, row_expert.get(), rows);
    reference<<<dim3(static_cast<unsigned>(2 * c.n + 255) / 256, static_cast<unsigned>(rows)), 256>>>(
        x.get(), x_stride, x_scale.get(), x_scale_stride, w.get(), w_scale.get(), w_scale_stride,
        row_expert.get(), 2 * c.n, c.k, gate_up.get());
    must(cudaDeviceSynchronize(), "prepare a problem");
  }

  GemmSwigluArgs args() const {
    GemmSwigluArgs a;
    a.x = x.get(), a.x_stride = x_stride;
    a.x_scale = x_scale.get(), a.x_scale_stride = x_scale_stride;
    a.w = w.get(), a.w_scale = w_scale.get(), a.w_scale_stride = w_scale_stride;
    a.n = c.n, a.k = c.k;
    a.rows.layout = c.layout;
    a.rows.experts = static_cast<int>(c.rows.size());
    a.rows.counts = c.layout == RowLayout::dense && !c.device_count ? nullptr : counts.get();
    a.rows.rows = rows;
    a.rows.max_m = c.max_m;
    a.sms = kSms;
    return a;
  }

  // silu(gate) * up in float64.
  std::vector<double> wanted() const {
    const std::vector<float> sums = gate_up.host();
    std::vector<double> h(static_cast<std::size_t>(rows) * static_cast<std::size_t>(c.n));
    for (std::size_t i = 0; i < h.size(); ++i) {
      const std::size_t n = static_cast<std::size_t>(c.n), at = i / n * 2 * n + i % n;
      const double gate = static_cast<double>(sums[at]), up = static_cast<double>(sums[at + n]);
      h[i] = gate / (1 + std::exp(-gate)) * up;
    }
    return h;
  }
};

struct SwigluOutput {
  std::vector<__nv_fp8_e4m3> codes;   // [rows, n]
  std::vector<float> scale;           // [n/128][scale_stride]
  std::vector<__nv_bfloat16> values;  // [rows][out_stride]
};

SwigluOutput run(const SwigluProblem& p, bool quantised, bool values, int variant) {
  const auto rows = static_cast<std::size_t>(p.rows), n = static_cast<std::size_t>(p.c.n);
  DeviceBuffer<__nv_fp8_e4m3> codes(rows * n);
  DeviceBuffer<float> scale(n / 128 * static_cast<std::size_t>(p.scale_stride));
  DeviceBuffer<__nv_bfloat16> out(rows * static_cast<std::size_t>(p.out_stride));
  must(cudaMemset(codes.get(), 0xFF, codes.bytes()), "poison");
  must(cudaMemset(scale.get(), 0xFF, scale.bytes()), "poison");
  must(cudaMemset(out.get(), 0xFF, out.bytes()), "poison");
  GemmSwigluArgs a = p.args();
  a.variant = variant;
  if (quantised) {
    a.codes = reinterpret_cast<std::uint8_t*>(codes.get());
    a.scale = scale.get();
    a.scale_stride = p.scale_stride;
  }
  if (values) {
    a.out = out.get();
    a.out_stride = p.out_stride;
  }
  EXPECT_EQ(gemm_swiglu(a, nullptr), cudaSuccess);
  must(cudaDeviceSynchronize(), "gemm_swiglu");
  return {codes.host(), scale.host(), out.host()};
}

void expect_agrees(const SwigluProblem& p, const std::vector<double>& want, int variant) {
  const SwigluCase& c = p.c;
  SCOPED_TRACE(testing::Message() << "layout " << static_cast<int>(c.layout) << " experts " << c.rows.size()
                                  << " first " << c.rows[0] << " n " << c.n << " k " << c.k << " variant "
                                  << variant);
  const SwigluOutput both = run(p, true, true, variant), codes_only = run(p, true, false, variant),
                     values_only = run(p, false, true, variant);
  EXPECT_EQ(std::memcmp(both.codes.data(), codes_only.codes.data(), both.codes.size()), 0);
  EXPECT_EQ(std::memcmp(both.scale.data(), codes_only.scale.data(), both.scale.size() * 4), 0);
  EXPECT_EQ(std::memcmp(both.values.data(), values_only.values.data(), both.values.size() * 2), 0);

  double error = 0, norm = 0;
  std::int64_t touched = 0, missing = 0, wrong_scales = 0, wrong_codes = 0, far_codes = 0;
  for (int r = 0; r < p.rows; ++r) {
    const auto* const values = &both.values[static_cast<std::size_t>(r * p.out_stride)];
    const bool owned = p.owner[static_cast<std::size_t>(r)] >= 0;
    for (int i = c.n; i < p.out_stride; ++i) touched += !std::isnan(__bfloat162float(values[i]));
    for (int b = 0; b < c.n / 128; ++b) {
      const float scale = both.scale[static_cast<std::size_t>(b * p.scale_stride + r)];
      float amax = 0;
      for (int i = b * 128; i < (b + 1) * 128; ++i)
        amax = std::fmax(amax, std::fabs(__bfloat162float(values[i])));
      if (owned) {
        wrong_scales += !(scale == amax / 448.0f);
      } else {
        touched += !std::isnan(scale);
      }
      for (int i = b * 128; i < (b + 1) * 128; ++i) {
        const auto at =
            static_cast<std::size_t>(r) * static_cast<std::size_t>(c.n) + static_cast<std::size_t>(i);
        const float value = __bfloat162float(values[i]), code = static_cast<float>(both.codes[at]);
        if (!owned) {
          touched += !std::isnan(value) + !std::isnan(code);
          continue;
        }
        missing += std::isnan(value) + std::isnan(code);
        wrong_codes += !(code == static_cast<float>(__nv_fp8_e4m3(value / scale)));
        // A step of e4m3 is at most an eighth of the value, or 2^-9 of the scale; what a tensor core's sum
        // of 128 loses is below one of the block's.
        const double off = std::fabs(static_cast<double>(code) * static_cast<double>(scale) - want[at]);
        far_codes += !(off <= std::fabs(want[at]) / 8 + static_cast<double>(amax) * 0.01);
        const double d = static_cast<double>(value) - want[at];
        error += std::isnan(d) ? 0 : d * d;
        norm += want[at] * want[at];
      }
    }
  }
  EXPECT_EQ(touched, 0);
  EXPECT_EQ(missing, 0);
  EXPECT_EQ(wrong_scales, 0);
  EXPECT_EQ(wrong_codes, 0);
  EXPECT_EQ(far_codes, 0);
  EXPECT_LT(norm > 0 ? std::sqrt(error / norm) : 0.0, 4e-3);
}

void every_variant_agrees(const SwigluCase& c) {
  const SwigluProblem p(c);
  const std::vector<double> want = p.wanted();
  for (int v = -1; v < kSwigluVariants; ++v) expect_agrees(p, want, v);
}

const SwigluCase kSwigluCases[] = {
    {RowLayout::dense, {1}, 0, 128, 128},
    {RowLayout::dense, {77}, 0, 256, 208},
    {RowLayout::dense, {300}, 0, 384, 1024},
    {RowLayout::dense, {100}, 0, 640, 256, true},
    {RowLayout::packed, {0, 5, 130, 0, 1, 257, 64, 31, 0}, 0, 256, 384},
    {RowLayout::packed, {3, 0, 300, 129, 2, 1}, 0, 2048, 640},
    {RowLayout::packed, {130, 0, 300, 129, 2, 257}, 0, 512, 2048},
    {RowLayout::packed, {500, 40, 300, 129, 2, 1}, 0, 512, 2304},
    {RowLayout::packed, {130, 0, 300, 129}, 0, 384, 4096},
    {RowLayout::masked, {40, 300, 129, 7}, 300, 384, 2048},
    {RowLayout::packed, {0, 0, 0}, 0, 128, 128},
    {RowLayout::masked, {0, 5, 40, 33, 0, 1, 17}, 40, 384, 4224},
    {RowLayout::masked, {200, 0, 131, 64, 1}, 200, 256, 640},
    {RowLayout::masked, {0, 300, 128, 256, 257}, 512, 1024, 256},
};

class GemmSwigluCase : public testing::TestWithParam<SwigluCase> {};

TEST_P(GemmSwigluCase, AgreesWithFloat64AndQuantisesWhatItRounded) {
  if (no_gpu()) GTEST_SKIP() << "no GPU on this machine";
  every_variant_agrees(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Shapes, GemmSwigluCase, testing::ValuesIn(kSwigluCases));

TEST(GemmSwiglu, ManyExpertsMostOfThemEmpty) {
  if (no_gpu()) GTEST_SKIP() << "no GPU on this machine";
  std::mt19937_64 random(swiglu_seed());
  SwigluCase c{RowLayout::packed, {}, 0, 128, 256};
  for (int e = 0; e < 200; ++e) c.rows.push_back(random() % 3 == 0 ? static_cast<int>(random() % 40) : 0);
  every_variant_agrees(c);
  c.layout = RowLayout::masked;
  c.max_m = 40;
  every_variant_agrees(c);
}

// A row's result then has the same bits whatever else is computed.
TEST(GemmSwiglu, VariantsAgreeToTheBit) {
  if (no_gpu()) GTEST_SKIP() << "no GPU on this machine";
  const SwigluProblem p({RowLayout::packed, {70, 0, 130, 3}, 0, 256, 1024});
  const SwigluOutput first = run(p, true, true, 0);
  for (int v = 1; v < kSwigluVariants; ++v) {
    const SwigluOutput other = run(p, true, true, v);
    EXPECT_EQ(std::memcmp(first.codes.data(), other.codes.data(), first.codes.size()), 0) << "variant " << v;
    EXPECT_EQ(std::memcmp(first.scale.data(), other.scale.data(), first.scale.size() * 4), 0)
        << "variant " << v;
    EXPECT_EQ(std::memcmp(first.values.data(), other.values.data(), first.values.size() * 2), 0)
        << "variant " << v;
  }
}

TEST(GemmSwiglu, BlocksOfZeros) {
  if (no_gpu()) GTEST_SKIP() << "no GPU on this machine";
  const SwigluProblem p({RowLayout::dense, {130}, 0, 128, 256});
  must(cudaMemset(p.x.get(), 0, p.x.bytes()), "zeros");
  for (int v = 0; v < kSwigluVariants; ++v) {
    const SwigluOutput out = run(p, true, false, v);
    for (const __nv_fp8_e4m3 c : out.codes) ASSERT_EQ(static_cast<float>(c), 0.0f) << "variant " << v;
    for (int r = 0; r < p.rows; ++r) {
      const float scale = out.scale[static_cast<std::size_t>(r)];
      ASSERT_TRUE(std::isnormal(scale) && scale > 0) << "variant " << v;
    }
  }
}

TEST(GemmSwiglu, RefusesWhatItCannotDo) {
  if (no_gpu()) GTEST_SKIP() << "no GPU on this machine";
  const SwigluProblem p({RowLayout::dense, {16}, 0, 128, 128});
  DeviceBuffer<__nv_bfloat16> out(16 * 128);
  GemmSwigluArgs a = p.args();
  EXPECT_EQ(gemm_swiglu(a, nullptr), cudaErrorInvalidValue) << "no output";
  a.out = out.get();
  a.out_stride = 128;
  EXPECT_EQ(gemm_swiglu(a, nullptr), cudaSuccess);
  must(cudaDeviceSynchronize(), "gemm_swiglu");
  GemmSwigluArgs odd_n = a;
  odd_n.n = 64;
  EXPECT_EQ(gemm_swiglu(odd_n, nullptr), cudaErrorInvalidValue);
  GemmSwigluArgs odd_k = a;
  odd_k.k = 120;
  EXPECT_EQ(gemm_swiglu(odd_k, nullptr), cudaErrorInvalidValue);
  GemmSwigluArgs no_such_variant = a;
  no_such_variant.variant = kSwigluVariants;
  EXPECT_EQ(gemm_swiglu(no_such_variant, nullptr), cudaErrorInvalidValue);
  GemmSwigluArgs nothing = a;
  nothing.rows.rows = 0;
  EXPECT_EQ(gemm_swiglu(nothing, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace trireme::cuda
