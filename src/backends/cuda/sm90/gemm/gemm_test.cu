#include "backends/cuda/sm90/gemm/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/cuda/heuristics/gemm_tile.h"
#include "backends/cuda/sm90/gemm/gemm_testing.cuh"
#include "backends/cuda/sm90/gemm/split_sum.cuh"

namespace trireme::cuda {
namespace {

using namespace gemm_testing;

struct Case {
  RowLayout layout;
  std::vector<int> rows;  // of each expert
  int max_m;              // masked
  int n, k;
  int spare = 3;  // rows after the last that belong to nobody; dense: only with counts on the device
  bool device_count = false;
};

std::uint64_t fresh_seed() {
  static const std::uint64_t seed = std::random_device{}();
  static bool said = false;
  if (!said) std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  said = true;
  return seed;
}

// One for all products of this program, which come one after the other.
const GemmWorkspace& workspace() {
  static DeviceBuffer<unsigned char> memory(static_cast<std::size_t>(gemm_workspace_bytes(kSplitSumMaxCtas)));
  static const GemmWorkspace w = [] {
    must(cudaMemset(memory.get(), 0, memory.bytes()), "clear");
    return GemmWorkspace{memory.get(), static_cast<std::int64_t>(memory.bytes())};
  }();
  return w;
}

// Operands of a case on the device; T is the type of x and w.
template <class T>
struct Problem {
  static constexpr bool kFp8 = sizeof(T) == 1;
  Case c;
  int rows, k_blocks, n_blocks;
  std::int64_t x_stride, x_scale_stride, out_stride;
  int w_scale_stride;
  std::vector<int> owner;
  DeviceBuffer<int> row_expert, counts;
  DeviceBuffer<T> x, w;
  DeviceBuffer<float> x_scale, w_scale, ref;
  GemmWorkspace there = workspace();
  int sms = 0;

  static std::vector<int> owners(const Case& c) {
    std::vector<int> o;
    for (std::size_t e = 0; e < c.rows.size(); ++e) {
      const std::size_t begin = o.size();
      o.insert(o.end(), static_cast<std::size_t>(c.rows[e]), static_cast<int>(e));
      if (c.layout == RowLayout::masked) o.resize(begin + static_cast<std::size_t>(c.max_m), -1);
    }
    const bool tail = c.layout == RowLayout::packed || c.device_count;
    if (tail) o.resize(o.size() + static_cast<std::size_t>(c.spare), -1);
    return o;
  }
  static std::vector<int> count_words(const Case& c) {
    std::vector<int> v = c.rows;
    if (c.layout == RowLayout::packed) {
      for (std::size_t e = 1; e < v.size(); ++e) v[e] += v[e - 1];
    }
    return v;
  }

  explicit Problem(const Case& of)
      : c(of),
        rows(static_cast<int>(owners(of).size())),
        k_blocks((of.k + 127) / 128),
        n_blocks((of.n + 127) / 128),
        x_stride((of.k + 15) / 16 * 16 + 32),
        x_scale_stride((rows + 3) / 4 * 4 + 4),
        out_stride(of.n + 8),
        w_scale_stride((k_blocks + 3) / 4 * 4),
        owner(owners(of)),
        row_expert(owner),
        counts(count_words(of)),
        x(static_cast<std::size_t>(rows) * static_cast<std::size_t>(x_stride)),
        w(of.rows.size() * static_cast<std::size_t>(of.n) * static_cast<std::size_t>(of.k)),
        x_scale(static_cast<std::size_t>(k_blocks) * static_cast<std::size_t>(x_scale_stride)),
        w_scale(of.rows.size() * static_cast<std::size_t>(n_blocks) *
                static_cast<std::size_t>(w_scale_stride)),
        ref(static_cast<std::size_t>(rows) * static_cast<std::size_t>(of.n)) {
    const std::uint64_t seed = fresh_seed();
    const float sigma = kFp8 ? 100.0f : 1.0f;
    T nan;
    std::memset(&nan, 0x7F, sizeof nan);
    must(cudaMemset(x.get(), 0x7F, x.bytes()), "poison x");
    fill_normal<T><<<256, 256>>>(x.get(), x.bytes() / sizeof(T), seed + 100, sigma);
    fill_normal<T><<<256, 256>>>(w.get(), w.bytes() / sizeof(T), seed + 200, sigma);
    fill_scales<<<64, 256>>>(x_scale.get(), x_scale.bytes() / 4, seed + 300);
    fill_scales<<<64, 256>>>(w_scale.get(), w_scale.bytes() / 4, seed + 400);
    poison_rows<T><<<static_cast<unsigned>(rows), 256>>>(x.get(), x_stride, c.k, row_expert.get(), nan);
    poison_scales<<<1, 256>>>(x_scale.get(), x_scale_stride, k_blocks, row_expert.get(), rows);
    reference<T><<<dim3(static_cast<unsigned>(c.n + 255) / 256, static_cast<unsigned>(rows)), 256>>>(
        x.get(), x_stride, kFp8 ? x_scale.get() : nullptr, x_scale_stride, w.get(), w_scale.get(),
        w_scale_stride, row_expert.get(), c.n, c.k, ref.get());
    must(cudaDeviceSynchronize(), "prepare a problem");
  }

  GemmRows gemm_rows() const {
    GemmRows r;
    r.layout = c.layout;
    r.experts = static_cast<int>(c.rows.size());
    r.counts = c.layout == RowLayout::dense && !c.device_count ? nullptr : counts.get();
    r.rows = rows;
    r.max_m = c.max_m;
    return r;
  }

  // The output with every row padded by 8 elements, all poisoned before.
  template <class Out>
  std::vector<Out> run(int variant, const GemmFinish& finish = {}) const {
    DeviceBuffer<Out> out(static_cast<std::size_t>(rows) * static_cast<std::size_t>(out_stride));
    must(cudaMemset(out.get(), 0xFF, out.bytes()), "poison");
    cudaError_t e;
    if constexpr (kFp8) {
      e = gemm_fp8({.x = x.get(),
                    .x_stride = x_stride,
                    .x_scale = x_scale.get(),
                    .x_scale_stride = x_scale_stride,
                    .w = w.get(),
                    .w_scale = w_scale.get(),
                    .w_scale_stride = w_scale_stride,
                    .out = out.get(),
                    .out_stride = out_stride,
                    .out_f32 = sizeof(Out) == 4,
                    .n = c.n,
                    .k = c.k,
                    .rows = gemm_rows(),
                    .finish = finish,
                    .workspace = there,
                    .variant = variant,
                    .sms = sms},
                   nullptr);
    } else {
      e = gemm_bf16({.x = x.get(),
                     .x_stride = x_stride,
                     .w = w.get(),
                     .out = out.get(),
                     .out_stride = out_stride,
                     .out_f32 = sizeof(Out) == 4,
                     .n = c.n,
                     .k = c.k,
                     .rows = gemm_rows(),
                     .finish = finish,
                     .workspace = there,
                     .variant = variant,
                     .sms = sms},
                    nullptr);
    }
    EXPECT_EQ(e, cudaSuccess) << cudaGetErrorString(e);
    must(cudaDeviceSynchronize(), "gemm");
    return out.host();
  }
};

bool is_poison(float v) { return std::isnan(v); }
float as_float(float v) { return v; }
float as_float(__nv_bfloat16 v) { return __bfloat162float(v); }

// What is owned agrees with the reference, and nothing else was written.
template <class T, class Out>
void expect_agrees(const Problem<T>& p, int variant, const std::vector<float>& ref,
                   const GemmFinish& finish = {}) {
  const std::vector<Out> out = p.template run<Out>(variant, finish);
  double error = 0, norm = 0;
  std::int64_t touched = 0, missing = 0;
  for (int r = 0; r < p.rows; ++r) {
    for (int c = 0; c < static_cast<int>(p.out_stride); ++c) {
      const float got = as_float(out[static_cast<std::size_t>(r * p.out_stride + c)]);
      if (p.owner[static_cast<std::size_t>(r)] < 0 || c >= p.c.n) {
        touched += !is_poison(got);
        continue;
      }
      missing += is_poison(got);
      const double want = static_cast<double>(
          ref[static_cast<std::size_t>(r) * static_cast<std::size_t>(p.c.n) + static_cast<std::size_t>(c)]);
      const double d = static_cast<double>(got) - want;
      error += std::isnan(d) ? 0 : d * d;
      norm += want * want;
    }
  }
  const double relative = norm > 0 ? std::sqrt(error / norm) : 0;
  EXPECT_EQ(touched, 0) << "variant " << variant;
  EXPECT_EQ(missing, 0) << "variant " << variant;
  EXPECT_LT(relative, sizeof(Out) == 4 ? (sizeof(T) == 1 ? 2e-3 : 2e-5) : 3e-3) << "variant " << variant;
}

template <class T>
void every_variant_agrees(const Case& c) {
  SCOPED_TRACE(testing::Message() << "layout " << static_cast<int>(c.layout) << " experts " << c.rows.size()
                                  << " first " << c.rows[0] << " n " << c.n << " k " << c.k);
  const Problem<T> p(c);
  const std::vector<float> ref = p.ref.host();
  for (int v = -1; v < (Problem<T>::kFp8 ? kFp8TileCount : kBf16TileCount); ++v) {
    expect_agrees<T, __nv_bfloat16>(p, v, ref);
    expect_agrees<T, float>(p, v, ref);
  }
}

const Case kCases[] = {
    {RowLayout::dense, {1}, 0, 64, 128},
    {RowLayout::dense, {17}, 0, 576, 512},
    {RowLayout::dense, {130}, 0, 2112, 1024},
    {RowLayout::dense, {333}, 0, 8, 4608},
    {RowLayout::dense, {77}, 0, 264, 208},
    {RowLayout::dense, {100}, 0, 576, 256, 60, true},
    {RowLayout::packed, {0, 5, 130, 0, 1, 257, 64, 31, 0}, 0, 576, 384},
    {RowLayout::packed, {3, 0, 300, 129, 2, 1}, 0, 2112, 640},
    {RowLayout::packed, {0, 0, 0}, 0, 64, 128},
    {RowLayout::masked, {0, 5, 40, 33, 0, 1, 17}, 40, 576, 384},
    {RowLayout::masked, {200, 0, 131, 64, 1}, 200, 264, 640},
    {RowLayout::masked, {0, 300, 128, 256, 257}, 512, 1024, 256},
    // Steps of K enough to be shared.
    {RowLayout::dense, {200}, 0, 2112, 2048},
    {RowLayout::dense, {65}, 0, 4104, 3088},
    {RowLayout::packed, {246, 0, 983, 328, 492}, 0, 520, 2048},
    {RowLayout::masked, {246, 0, 128, 130}, 256, 1096, 1536},
};

#define SKIP_WITHOUT_GPU()                                           \
  do {                                                               \
    int devices = 0;                                                 \
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) \
      GTEST_SKIP() << "no GPU on this machine";                      \
  } while (false)

class GemmCase : public testing::TestWithParam<Case> {};

TEST_P(GemmCase, Fp8AgreesWithReferenceOnEveryVariant) {
  SKIP_WITHOUT_GPU();
  every_variant_agrees<__nv_fp8_e4m3>(GetParam());
}

TEST_P(GemmCase, Bf16AgreesWithReferenceOnEveryVariant) {
  SKIP_WITHOUT_GPU();
  every_variant_agrees<__nv_bfloat16>(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Shapes, GemmCase, testing::ValuesIn(kCases));

TEST(Gemm, ManyExpertsMostOfThemEmpty) {
  SKIP_WITHOUT_GPU();
  std::mt19937_64 random(fresh_seed());
  Case c{RowLayout::packed, {}, 0, 264, 256};
  for (int e = 0; e < 200; ++e) c.rows.push_back(random() % 3 == 0 ? static_cast<int>(random() % 40) : 0);
  every_variant_agrees<__nv_fp8_e4m3>(c);
  c.layout = RowLayout::masked;
  c.max_m = 40;
  every_variant_agrees<__nv_fp8_e4m3>(c);
}

// A deterministic mode may fix a variant; a row's result then has the same bits whatever else is computed.
TEST(Gemm, VariantsAgreeToTheBit) {
  SKIP_WITHOUT_GPU();
  const Problem<__nv_fp8_e4m3> fp8({RowLayout::packed, {70, 0, 130, 3}, 0, 576, 1024});
  const auto first = fp8.run<float>(0);
  for (int v = 1; v < kFp8TileCount; ++v) {
    if (kFp8Tiles[v].split > 1 || kFp8Tiles[v].bm < kTallRows) continue;
    const auto other = fp8.run<float>(v);
    EXPECT_EQ(std::memcmp(first.data(), other.data(), first.size() * 4), 0) << "variant " << v;
  }
  const Problem<__nv_bfloat16> bf16({RowLayout::packed, {70, 0, 130, 3}, 0, 576, 1024});
  const auto first_bf16 = bf16.run<float>(0);
  for (int v = 1; v < kBf16TileCount; ++v) {
    if (kBf16Tiles[v].split > 1) continue;
    const auto other = bf16.run<float>(v);
    EXPECT_EQ(std::memcmp(first_bf16.data(), other.data(), first_bf16.size() * 4), 0) << "variant " << v;
  }
}

// Weighted rows, a bias and a residual, on every variant.
template <class T, class Out>
void finishes(const Case& c) {
  const Problem<T> p(c);
  const auto rows = static_cast<std::size_t>(p.rows), n = static_cast<std::size_t>(c.n);
  std::mt19937_64 random(fresh_seed());
  std::normal_distribution<float> normal;
  std::vector<float> weight(rows), bias(n);
  std::vector<Out> residual(rows * n);
  for (auto& v : weight) v = normal(random);
  for (auto& v : bias) v = 30 * normal(random);
  for (auto& v : residual) v = static_cast<Out>(30 * normal(random));
  const DeviceBuffer<float> weight_there(weight), bias_there(bias);
  const DeviceBuffer<Out> residual_there(residual);
  std::vector<float> ref = p.ref.host();
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < n; ++i) {
      ref[r * n + i] = ref[r * n + i] * weight[r] + bias[i] + as_float(residual[r * n + i]);
    }
  }
  const GemmFinish finish = {weight_there.get(), bias_there.get(), residual_there.get(), c.n};
  for (int v = 0; v < (Problem<T>::kFp8 ? kFp8TileCount : kBf16TileCount); ++v) {
    expect_agrees<T, Out>(p, v, ref, finish);
  }
}

TEST(Gemm, FinishesProductsBeforeTheyAreRounded) {
  SKIP_WITHOUT_GPU();
  const Case packed{RowLayout::packed, {70, 0, 130, 3}, 0, 576, 1024},
      dense{RowLayout::dense, {200}, 0, 328, 2048};
  finishes<__nv_fp8_e4m3, __nv_bfloat16>(packed);
  finishes<__nv_fp8_e4m3, float>(dense);
  finishes<__nv_bfloat16, __nv_bfloat16>(dense);
  finishes<__nv_bfloat16, float>(packed);
}

void expect_zero_counters() {
  std::vector<unsigned char> counters(static_cast<std::size_t>(kSplitSumCounterBytes));
  must(cudaMemcpy(counters.data(), workspace().data, counters.size(), cudaMemcpyDeviceToHost), "counters");
  for (const unsigned char b : counters) ASSERT_EQ(b, 0);
}

// Shared tiles are added in one order whoever comes last, and leave the workspace as they found it.
TEST(Gemm, SharedTilesHaveTheSameBitsEveryTime) {
  SKIP_WITHOUT_GPU();
  const Problem<__nv_fp8_e4m3> p({RowLayout::dense, {200}, 0, 2112, 4096});
  for (int v = 0; v < kFp8TileCount; ++v) {
    if (kFp8Tiles[v].split < 2) continue;
    const auto first = p.run<float>(v);
    for (int i = 0; i < 20; ++i) {
      const auto other = p.run<float>(v);
      ASSERT_EQ(std::memcmp(first.data(), other.data(), first.size() * 4), 0) << "variant " << v;
    }
  }
  expect_zero_counters();
}

// Experts of uneven loads: tiles as CTAs come free, and to each CTA in turn.
TEST(Gemm, TilesTakenAsCtasComeFreeHaveTheSameBits) {
  SKIP_WITHOUT_GPU();
  const Case cases[] = {{RowLayout::packed, {200, 0, 931, 1, 328, 65, 64, 129}, 0, 520, 640},
                        {RowLayout::masked, {0, 300, 7, 256, 130}, 300, 1024, 128},
                        {RowLayout::packed, {0, 0, 0}, 0, 64, 128}};
  for (const Case& c : cases) {
    Problem<__nv_fp8_e4m3> p(c);
    for (const int sms : {1, 7, 40}) {
      p.sms = sms;
      for (int v = 0; v < kFp8TileCount; ++v) {
        if (kFp8Tiles[v].bm < kTallRows || kFp8Tiles[v].split > 1 || kFp8Tiles[v].cluster > sms) continue;
        p.there = {};
        const auto in_turn = p.run<float>(v);
        p.there = workspace();
        for (int i = 0; i < 5; ++i) {
          const auto taken = p.run<float>(v);
          ASSERT_EQ(std::memcmp(in_turn.data(), taken.data(), taken.size() * 4), 0)
              << "variant " << v << ", " << sms << " CTAs";
        }
      }
    }
  }
  expect_zero_counters();
}

TEST(Gemm, RefusesWhatItCannotDo) {
  SKIP_WITHOUT_GPU();
  const Problem<__nv_fp8_e4m3> p({RowLayout::dense, {16}, 0, 64, 128});
  GemmFp8Args a{.x = p.x.get(),
                .x_stride = p.x_stride,
                .x_scale = p.x_scale.get(),
                .x_scale_stride = p.x_scale_stride,
                .w = p.w.get(),
                .w_scale = p.w_scale.get(),
                .w_scale_stride = p.w_scale_stride,
                .out = p.ref.get(),
                .out_stride = 64,
                .out_f32 = true,
                .n = 64,
                .k = 128,
                .rows = p.gemm_rows()};
  EXPECT_EQ(gemm_fp8(a, nullptr), cudaSuccess);
  must(cudaDeviceSynchronize(), "gemm");
  GemmFp8Args odd_n = a;
  odd_n.n = 60;
  EXPECT_EQ(gemm_fp8(odd_n, nullptr), cudaErrorInvalidValue);
  GemmFp8Args odd_k = a;
  odd_k.k = 120;
  EXPECT_EQ(gemm_fp8(odd_k, nullptr), cudaErrorInvalidValue);
  GemmFp8Args no_such_variant = a;
  no_such_variant.variant = kFp8TileCount;
  EXPECT_EQ(gemm_fp8(no_such_variant, nullptr), cudaErrorInvalidValue);
  GemmFp8Args nothing = a;
  nothing.rows.rows = 0;
  EXPECT_EQ(gemm_fp8(nothing, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace trireme::cuda
