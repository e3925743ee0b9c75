#include "backends/cuda/sm90/gemm/thin.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "backends/cuda/sm90/gemm/gemm_testing.cuh"

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

struct Problem {
  Case c;
  std::vector<int> owner;  // expert of each row, -1 for nobody
  int rows, k_blocks, n_blocks;
  std::int64_t x_stride, x_scale_stride, out_stride;
  int w_scale_stride;
  DeviceBuffer<int> row_expert, counts;
  DeviceBuffer<__nv_fp8_e4m3> x, w;
  DeviceBuffer<float> x_scale, w_scale, ref;
  DeviceBuffer<unsigned char> workspace;

  static std::vector<int> owners(const Case& c) {
    std::vector<int> o;
    for (std::size_t e = 0; e < c.rows.size(); ++e) {
      const std::size_t begin = o.size();
      o.insert(o.end(), static_cast<std::size_t>(c.rows[e]), static_cast<int>(e));
      if (c.layout == RowLayout::masked) o.resize(begin + static_cast<std::size_t>(c.max_m), -1);
    }
    if (c.layout == RowLayout::packed || c.device_count)
      o.resize(o.size() + static_cast<std::size_t>(c.spare), -1);
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
        owner(owners(of)),
        rows(static_cast<int>(owner.size())),
        k_blocks((of.k + 127) / 128),
        n_blocks((of.n + 127) / 128),
        x_stride((of.k + 15) / 16 * 16 + 32),
        x_scale_stride((rows + 3) / 4 * 4 + 4),
        out_stride(of.n + 8),
        w_scale_stride((k_blocks + 3) / 4 * 4),
        row_expert(owner),
        counts(count_words(of)),
        x(static_cast<std::size_t>(rows) * static_cast<std::size_t>(x_stride)),
        w(of.rows.size() * static_cast<std::size_t>(of.n) * static_cast<std::size_t>(of.k)),
        x_scale(static_cast<std::size_t>(k_blocks) * static_cast<std::size_t>(x_scale_stride)),
        w_scale(of.rows.size() * static_cast<std::size_t>(n_blocks) *
                static_cast<std::size_t>(w_scale_stride)),
        ref(static_cast<std::size_t>(rows) * static_cast<std::size_t>(of.n)),
        workspace(static_cast<std::size_t>(thin_workspace_bytes(kThinTileCount - 1, 132))) {
    const std::uint64_t seed = fresh_seed();
    __nv_fp8_e4m3 nan;
    std::memset(&nan, 0x7F, sizeof nan);
    must(cudaMemset(workspace.get(), 0, workspace.bytes()), "counters");
    fill_normal<<<256, 256>>>(x.get(), x.bytes(), seed + 100, 100.0f);
    fill_normal<<<256, 256>>>(w.get(), w.bytes(), seed + 200, 100.0f);
    fill_scales<<<64, 256>>>(x_scale.get(), x_scale.bytes() / 4, seed + 300);
    fill_scales<<<64, 256>>>(w_scale.get(), w_scale.bytes() / 4, seed + 400);
    must(cudaMemset2D(x.get() + c.k, static_cast<std::size_t>(x_stride), 0x7F,
                      static_cast<std::size_t>(x_stride - c.k), static_cast<std::size_t>(rows)),
         "poison beyond k");
    poison_rows<<<static_cast<unsigned>(rows), 256>>>(x.get(), x_stride, c.k, row_expert.get(), nan);
    poison_scales<<<1, 256>>>(x_scale.get(), x_scale_stride, k_blocks, row_expert.get(), rows);
    reference<<<dim3(static_cast<unsigned>(c.n + 255) / 256, static_cast<unsigned>(rows)), 256>>>(
        x.get(), x_stride, x_scale.get(), x_scale_stride, w.get(), w_scale.get(), w_scale_stride,
        row_expert.get(), c.n, c.k, ref.get());
    must(cudaDeviceSynchronize(), "prepare a problem");
  }

  ThinGemmArgs args(int variant, int least_steps, void* out, bool out_f32) const {
    ThinGemmArgs a;
    a.gemm.x = x.get();
    a.gemm.x_stride = x_stride;
    a.gemm.x_scale = x_scale.get();
    a.gemm.x_scale_stride = x_scale_stride;
    a.gemm.w = w.get();
    a.gemm.w_scale = w_scale.get();
    a.gemm.w_scale_stride = w_scale_stride;
    a.gemm.out = out;
    a.gemm.out_stride = out_stride;
    a.gemm.out_f32 = out_f32;
    a.gemm.n = c.n;
    a.gemm.k = c.k;
    a.gemm.rows.layout = c.layout;
    a.gemm.rows.experts = static_cast<int>(c.rows.size());
    a.gemm.rows.counts = c.layout == RowLayout::dense && !c.device_count ? nullptr : counts.get();
    a.gemm.rows.rows = rows;
    a.gemm.rows.max_m = c.max_m;
    a.gemm.variant = variant;
    a.gemm.sms = 132;
    a.least_steps = least_steps;
    a.gemm.workspace = {workspace.get(), static_cast<std::int64_t>(workspace.bytes())};
    return a;
  }

  // The output with every row padded by 8 elements, all poisoned before. The sums of the workspace are
  // poisoned as well; the counters are as the last launch left them.
  template <class Out>
  std::vector<Out> run(int variant, int least_steps) const {
    DeviceBuffer<Out> out(static_cast<std::size_t>(rows) * static_cast<std::size_t>(out_stride));
    must(cudaMemset(out.get(), 0xFF, out.bytes()), "poison");
    constexpr std::size_t kCounters = std::size_t{32} << 10;
    must(cudaMemset(workspace.get() + kCounters, 0xFF, workspace.bytes() - kCounters), "poison");
    const cudaError_t e = gemm_thin_fp8(args(variant, least_steps, out.get(), sizeof(Out) == 4), nullptr);
    EXPECT_EQ(e, cudaSuccess) << cudaGetErrorString(e);
    must(cudaDeviceSynchronize(), "gemm");
    return out.host();
  }
};

float as_float(float v) { return v; }
float as_float(__nv_bfloat16 v) { return __bfloat162float(v); }

// What is owned agrees with the reference, and nothing else was written. The error.
template <class Out>
double expect_agrees(const Problem& p, int variant, int least_steps, const std::vector<float>& ref) {
  const std::vector<Out> out = p.run<Out>(variant, least_steps);
  double error = 0, norm = 0;
  std::int64_t touched = 0, missing = 0;
  for (int r = 0; r < p.rows; ++r) {
    for (int c = 0; c < static_cast<int>(p.out_stride); ++c) {
      const float got = as_float(out[static_cast<std::size_t>(r * p.out_stride + c)]);
      if (p.owner[static_cast<std::size_t>(r)] < 0 || c >= p.c.n) {
        touched += !std::isnan(got);
        continue;
      }
      missing += std::isnan(got);
      const double want = static_cast<double>(
          ref[static_cast<std::size_t>(r) * static_cast<std::size_t>(p.c.n) + static_cast<std::size_t>(c)]);
      const double d = static_cast<double>(got) - want;
      error += std::isnan(d) ? 0 : d * d;
      norm += want * want;
    }
  }
  const double relative = norm > 0 ? std::sqrt(error / norm) : 0;
  EXPECT_EQ(touched, 0) << "variant " << variant << " least steps " << least_steps;
  EXPECT_EQ(missing, 0) << "variant " << variant << " least steps " << least_steps;
  EXPECT_LT(relative, sizeof(Out) == 4 ? 2e-3 : 3e-3)
      << "variant " << variant << " least steps " << least_steps;
  return relative;
}

void every_variant_agrees(const Case& c) {
  SCOPED_TRACE(testing::Message() << "layout " << static_cast<int>(c.layout) << " experts " << c.rows.size()
                                  << " first " << c.rows[0] << " n " << c.n << " k " << c.k);
  const Problem p(c);
  const std::vector<float> ref = p.ref.host();
  for (int v = 0; v < kThinTileCount; ++v) {
    for (int least_steps : {0, 1, 4}) {
      expect_agrees<__nv_bfloat16>(p, v, least_steps, ref);
      expect_agrees<float>(p, v, least_steps, ref);
    }
  }
}

const Case kCases[] = {
    {RowLayout::dense, {1}, 0, 64, 128},
    {RowLayout::dense, {1}, 0, 2112, 7168},
    {RowLayout::dense, {7}, 0, 4104, 1040},
    {RowLayout::dense, {33}, 0, 2112, 2064},
    {RowLayout::dense, {63}, 0, 576, 512},
    {RowLayout::dense, {65}, 0, 2112, 1024},
    {RowLayout::dense, {100}, 0, 264, 4608},
    {RowLayout::dense, {333}, 0, 8, 208},
    {RowLayout::dense, {100}, 0, 576, 256, 60, true},
    {RowLayout::dense, {0}, 0, 576, 256, 60, true},
    {RowLayout::packed, {0, 5, 130, 0, 1, 257, 64, 31, 0}, 0, 576, 384},
    {RowLayout::packed, {3, 0, 300, 129, 2, 1}, 0, 2112, 640},
    {RowLayout::packed, {0, 0, 0}, 0, 64, 128},
    {RowLayout::masked, {0, 5, 40, 33, 0, 1, 17}, 40, 576, 384},
    {RowLayout::masked, {200, 0, 131, 64, 1}, 200, 264, 656},
    {RowLayout::masked, {7}, 64, 4104, 1024},
};

#define SKIP_WITHOUT_GPU()                                           \
  do {                                                               \
    int devices = 0;                                                 \
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) \
      GTEST_SKIP() << "no GPU on this machine";                      \
  } while (false)

class ThinGemmCase : public testing::TestWithParam<Case> {};

TEST_P(ThinGemmCase, AgreesWithReferenceOnEveryVariant) {
  SKIP_WITHOUT_GPU();
  every_variant_agrees(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Shapes, ThinGemmCase, testing::ValuesIn(kCases));

TEST(ThinGemm, ManyExpertsMostOfThemEmpty) {
  SKIP_WITHOUT_GPU();
  std::mt19937_64 random(fresh_seed());
  Case c{RowLayout::packed, {}, 0, 264, 256};
  for (int e = 0; e < 200; ++e) c.rows.push_back(random() % 3 == 0 ? static_cast<int>(random() % 40) : 0);
  every_variant_agrees(c);
  c.layout = RowLayout::masked;
  c.max_m = 40;
  every_variant_agrees(c);
}

TEST(ThinGemm, SharedTilesHaveTheSameBitsInEveryRun) {
  SKIP_WITHOUT_GPU();
  const Problem p({RowLayout::dense, {37}, 0, 2112, 3584});
  for (int v = 0; v < kThinTileCount; ++v) {
    const auto first = p.run<float>(v, 1);
    for (int i = 0; i < 10; ++i) {
      const auto again = p.run<float>(v, 1);
      EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * 4), 0) << "variant " << v;
    }
  }
}

// Without shared tiles a row's result has the same bits whatever else is computed.
TEST(ThinGemm, ARowDoesNotDependOnOthersWhereNoTileIsShared) {
  SKIP_WITHOUT_GPU();
  const Problem p({RowLayout::packed, {70, 0, 130, 3}, 0, 576, 1024});
  for (int v = 0; v < kThinTileCount; ++v) {
    const auto all = p.run<float>(v, 0);
    ThinGemmArgs a;
    DeviceBuffer<float> out(all.size());
    must(cudaMemset(out.get(), 0xFF, out.bytes()), "poison");
    a = p.args(v, 0, out.get(), true);
    DeviceBuffer<int> fewer(std::vector<int>{70, 70, 75, 75});
    a.gemm.rows.counts = fewer.get();
    must(gemm_thin_fp8(a, nullptr), "launch");
    must(cudaDeviceSynchronize(), "gemm");
    const auto some = out.host();
    for (int r = 0; r < 75; ++r) {
      const auto at = static_cast<std::size_t>(r * p.out_stride);
      EXPECT_EQ(std::memcmp(&all[at], &some[at], std::size_t{576} * 4), 0) << "variant " << v << " row " << r;
    }
  }
}

// Long enough for a race to show: many pieces a CTA, many launches.
TEST(ThinGemm, ManyPiecesManyTimes) {
  SKIP_WITHOUT_GPU();
  const Problem p({RowLayout::masked, std::vector<int>(40, 32), 32, 1536, 1152});
  const std::vector<float> ref = p.ref.host();
  for (int v = 0; v < kThinTileCount; ++v) {
    for (int least_steps : {0, 4}) {
      expect_agrees<float>(p, v, least_steps, ref);
      DeviceBuffer<float> out(static_cast<std::size_t>(p.rows) * static_cast<std::size_t>(p.out_stride));
      for (int i = 0; i < 50; ++i)
        must(gemm_thin_fp8(p.args(v, least_steps, out.get(), true), nullptr), "launch");
      must(cudaDeviceSynchronize(), "launches");
      const auto last = out.host(), alone = p.run<float>(v, least_steps);
      int different = 0;
      for (int r = 0; r < p.rows; ++r) {
        const auto at = static_cast<std::size_t>(r * p.out_stride);
        different += std::memcmp(&last[at], &alone[at], static_cast<std::size_t>(p.c.n) * 4) != 0;
      }
      EXPECT_EQ(different, 0) << "variant " << v << " least steps " << least_steps;
    }
  }
}

// The counters of one launch serve the next, also of another tile, with no pause between them.
TEST(ThinGemm, LaunchesBackToBackShareAWorkspace) {
  SKIP_WITHOUT_GPU();
  const Problem p({RowLayout::dense, {20}, 0, 2112, 3584});
  const std::vector<float> ref = p.ref.host();
  const std::size_t words = static_cast<std::size_t>(p.rows) * static_cast<std::size_t>(p.out_stride);
  std::vector<std::unique_ptr<DeviceBuffer<float>>> outs;
  for (int i = 0; i < 4 * kThinTileCount; ++i) {
    outs.push_back(std::make_unique<DeviceBuffer<float>>(words));
    must(cudaMemset(outs.back()->get(), 0xFF, outs.back()->bytes()), "poison");
  }
  for (std::size_t i = 0; i < outs.size(); ++i) {
    must(gemm_thin_fp8(p.args(static_cast<int>(i) % kThinTileCount, 1, outs[i]->get(), true), nullptr),
         "launch");
  }
  must(cudaDeviceSynchronize(), "launches");
  for (std::size_t i = 0; i < outs.size(); ++i) {
    const std::vector<float> got = outs[i]->host(),
                             alone = p.run<float>(static_cast<int>(i) % kThinTileCount, 1);
    EXPECT_EQ(std::memcmp(got.data(), alone.data(), words * 4), 0) << "launch " << i;
  }
}

TEST(ThinGemm, RefusesWhatItCannotDo) {
  SKIP_WITHOUT_GPU();
  const Problem p({RowLayout::dense, {16}, 0, 64, 128});
  DeviceBuffer<float> out(std::size_t{16} * 72);
  const ThinGemmArgs good = p.args(0, 1, out.get(), true);
  EXPECT_EQ(gemm_thin_fp8(good, nullptr), cudaSuccess);
  must(cudaDeviceSynchronize(), "gemm");
  ThinGemmArgs a = good;
  a.gemm.n = 60;
  EXPECT_EQ(gemm_thin_fp8(a, nullptr), cudaErrorInvalidValue);
  a = good;
  a.gemm.k = 120;
  EXPECT_EQ(gemm_thin_fp8(a, nullptr), cudaErrorInvalidValue);
  a = good;
  a.gemm.variant = kThinTileCount;
  EXPECT_EQ(gemm_thin_fp8(a, nullptr), cudaErrorInvalidValue);
  a = good;
  a.gemm.workspace.bytes = 1024;
  EXPECT_EQ(gemm_thin_fp8(a, nullptr), cudaErrorInvalidValue);
  a = good;
  a.gemm.workspace.data = nullptr;
  a.least_steps = 0;
  EXPECT_EQ(gemm_thin_fp8(a, nullptr), cudaSuccess);
  a = good;
  a.gemm.rows.rows = 0;
  EXPECT_EQ(gemm_thin_fp8(a, nullptr), cudaSuccess);
  must(cudaDeviceSynchronize(), "gemm");
}

}  // namespace
}  // namespace trireme::cuda
