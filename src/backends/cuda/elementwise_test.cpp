#include "backends/cuda/elementwise.h"

#include "backends/cuda/glue_test_util.h"

namespace trireme::cuda {
namespace {
using namespace testing_glue;

struct Size {
  i64 rows, n, padding = 0, skew = 0;
};
// Whole and partial vectors, aligned and unaligned rows, one row and many.
const Size kSizes[] = {{1, 24},       {3, 80, 8},     {17, 200}, {130, 7168}, {5, 7168, 512}, {3, 1536, 576},
                       {2, 13, 1, 3}, {9, 515, 0, 1}, {4, 64},   {7, 16384},  {33, 512, 64}};

std::vector<double> normed(Rows& x, i64 r, const std::vector<float>& w, double eps) {
  double sum = 0;
  for (i64 i = 0; i < x.n; ++i) sum += static_cast<double>(x.at(r, i)) * static_cast<double>(x.at(r, i));
  const double scale = 1 / std::sqrt(sum / static_cast<double>(x.n) + eps);
  std::vector<double> out;
  for (i64 i = 0; i < x.n; ++i)
    out.push_back(static_cast<double>(x.at(r, i)) * scale *
                  static_cast<double>(w[static_cast<std::size_t>(i)]));
  return out;
}

// What one rounding to BF16 may cost, and a little for float32.
double rounding(double v) { return std::fabs(v) * 0x1.1p-8 + 1e-30; }

TEST(CudaElementwise, RmsNormOfStridedRows) {
  NEED_GPU();
  for (const Size& s : kSizes) {
    for (const bool bf16_weight : {false, true}) {
      Rows x(s.rows, s.n, s.padding, s.skew), out(s.rows, s.n, s.padding / 2 * 2, s.skew);
      x.randomise(3);
      std::vector<float> w;
      for (i64 i = 0; i < s.n; ++i) w.push_back(static_cast<float>(BF16(normal())));
      Both<float> w32(w);
      Both<BF16> w16(std::vector<BF16>(w.begin(), w.end()));
      const ConstView weight = bf16_weight ? ConstView(w16.gpu.get(), DType::kBF16, {s.n})
                                           : ConstView(w32.gpu.get(), DType::kF32, {s.n});
      EXPECT_OK(rms_norm({.x = x.view(), .weight = weight, .out = out.view(), .eps = 1e-5f}, *gpu_stream()));
      out.down().expect_padding_untouched();
      for (i64 r = 0; r < s.rows; ++r) {
        const auto want = normed(x, r, w, 1e-5);
        for (i64 i = 0; i < s.n; ++i) {
          const double v = want[static_cast<std::size_t>(i)];
          expect_close(static_cast<double>(out.at(r, i)), v, rounding(v), r, i);
        }
      }
    }
  }
}

TEST(CudaElementwise, AddRmsNormGivesTheBitsOfItsParts) {
  NEED_GPU();
  for (const Size& s : kSizes) {
    Rows x(s.rows, s.n, s.padding, s.skew), y(s.rows, s.n), parts(s.rows, s.n, s.padding, s.skew);
    x.randomise();
    y.randomise();
    parts.mem.host = x.mem.host;
    parts.mem.up();
    std::vector<float> w;
    for (i64 i = 0; i < s.n; ++i) w.push_back(normal());
    Both<float> weight(w);
    const ConstView wv(weight.gpu.get(), DType::kF32, {s.n});
    Rows out(s.rows, s.n), out_parts(s.rows, s.n);
    QuantRows q(s.rows, s.n), q_alone(s.rows, s.n);
    const bool quantised = s.n % 16 == 0;

    EXPECT_OK(add_rms_norm({.x = x.view(),
                            .y = y.view(),
                            .weight = wv,
                            .out = out.view(),
                            .q = quantised ? q.view() : Quantised{}},
                           *gpu_stream()));
    EXPECT_OK(add({.x = parts.view(), .y = y.view()}, *gpu_stream()));
    EXPECT_OK(rms_norm({.x = parts.view(), .weight = wv, .out = out_parts.view()}, *gpu_stream()));
    x.down().expect_padding_untouched();
    ASSERT_EQ(x.mem.host, parts.down().mem.host);
    ASSERT_EQ(out.down().mem.host, out_parts.down().mem.host);
    if (quantised) {
      expect_quantised(q.down(), out);
      // No sum, no BF16 rows: x stays as it is.
      EXPECT_OK(add_rms_norm({.x = x.view(), .y = {}, .weight = wv, .out = {}, .q = q_alone.view()},
                             *gpu_stream()));
      ASSERT_EQ(q_alone.down().codes.host, q.codes.host);
      ASSERT_EQ(x.down().mem.host, parts.mem.host);
    }
  }
}

TEST(CudaElementwise, AddRoundsOnce) {
  NEED_GPU();
  Rows x(17, 200, 3, 1), y(17, 200, 8);
  x.randomise();
  y.randomise();
  Rows before = x;
  before.mem.host = x.mem.host;
  EXPECT_OK(add({.x = x.view(), .y = y.view()}, *gpu_stream()));
  const std::vector<u16> old = before.mem.host;
  x.down().expect_padding_untouched();
  for (i64 r = 0; r < 17; ++r)
    for (i64 i = 0; i < 200; ++i) {
      const float was = value(old[static_cast<std::size_t>(x.skew + r * x.stride + i)]);
      ASSERT_EQ(x.bits(r, i), std::bit_cast<u16>(BF16(was + y.at(r, i))));
    }
}

TEST(CudaElementwise, QuantisesExactly) {
  NEED_GPU();
  for (const Size& s : {Size{1, 16}, Size{3, 80, 8}, Size{17, 208, 5, 3}, Size{130, 7168}, Size{9, 2048, 64},
                        Size{1, 18432}}) {
    Rows x(s.rows, s.n, s.padding, s.skew);
    for (i64 r = 0; r < s.rows; ++r)
      for (i64 i = 0; i < s.n; ++i)
        x.bits(r, i) = std::bit_cast<u16>(BF16(normal() * std::exp(normal() * 4)));
    x.mem.up();
    QuantRows q(s.rows, s.n);
    EXPECT_OK(quantise({.x = x.view(), .q = q.view()}, *gpu_stream()));
    expect_quantised(q.down(), x);
  }
}

TEST(CudaElementwise, QuantisesEveryFiniteBf16Exactly) {
  NEED_GPU();
  std::vector<u16> all;
  for (u32 b = 0; b < 0x10000; ++b)
    if ((b & 0x7f80) != 0x7f80) all.push_back(static_cast<u16>(b));
  all.resize(all.size() / 128 * 128);
  // Sorted, a block holds like magnitudes; shuffled, any; behind a large one, the small ones' roundings.
  for (int order = 0; order < 3; ++order) {
    if (order == 0)
      std::sort(all.begin(), all.end(), [](u16 a, u16 b) { return (a & 0x7fff) < (b & 0x7fff); });
    else
      std::shuffle(all.begin(), all.end(), rng());
    Rows x(static_cast<i64>(all.size()) / 128, 128);
    x.mem.host = all;
    if (order == 2)
      for (u16& b : x.mem.host) b = static_cast<u16>((b & 0x81ff) | 0x3e00);  // within a few powers of two
    x.mem.up();
    QuantRows q(x.rows, 128);
    EXPECT_OK(quantise({.x = x.view(), .q = q.view()}, *gpu_stream()));
    expect_quantised(q.down(), x);
  }
}

TEST(CudaElementwise, ZerosQuantiseToZeros) {
  NEED_GPU();
  Rows x(3, 256);
  x.mem.host.assign(x.mem.host.size(), 0);
  x.mem.up();
  QuantRows q(3, 256);
  EXPECT_OK(quantise({.x = x.view(), .q = q.view()}, *gpu_stream()));
  q.down();
  for (const u8 c : q.codes.host) ASSERT_EQ(c, 0);
  for (i64 r = 0; r < 3; ++r) ASSERT_TRUE(std::isfinite(q.scale_of(r, 1)) && q.scale_of(r, 1) > 0);
}

TEST(CudaElementwise, Swiglu) {
  NEED_GPU();
  for (const Size& s :
       {Size{1, 24}, Size{3, 80, 8}, Size{17, 200}, Size{130, 2048}, Size{3, 18432}, Size{5, 37, 1, 1}}) {
    Rows gate_up(s.rows, 2 * s.n, s.padding, s.skew), out(s.rows, s.n, s.padding, s.skew);
    gate_up.randomise(4);
    QuantRows q(s.rows, s.n), q_alone(s.rows, s.n);
    const bool quantised = s.n % 16 == 0;
    EXPECT_OK(swiglu({.gate_up = gate_up.view(),
                      .out = out.view(),
                      .q = quantised ? q.view() : Quantised{},
                      .rows_used = {}},
                     *gpu_stream()));
    out.down().expect_padding_untouched();
    for (i64 r = 0; r < s.rows; ++r)
      for (i64 i = 0; i < s.n; ++i) {
        const auto g = static_cast<double>(gate_up.at(r, i)), u = static_cast<double>(gate_up.at(r, s.n + i));
        const double want = g / (1 + std::exp(-g)) * u;
        expect_close(static_cast<double>(out.at(r, i)), want, rounding(want), r, i);
      }
    if (!quantised) continue;
    expect_quantised(q.down(), out);
    EXPECT_OK(
        swiglu({.gate_up = gate_up.view(), .out = {}, .q = q_alone.view(), .rows_used = {}}, *gpu_stream()));
    ASSERT_EQ(q_alone.down().codes.host, q.codes.host);
  }
}

TEST(CudaElementwise, SwigluComputesTheRowsInUseAlone) {
  NEED_GPU();
  for (const i32 used : {0, 1, 700, 3000}) {
    Rows gate_up(3000, 512), out(3000, 256);
    gate_up.randomise();
    QuantRows q(3000, 256);
    const Both<i32> ends(std::vector<i32>{0, used / 2, used});
    EXPECT_OK(swiglu({.gate_up = gate_up.view(), .out = out.view(), .q = q.view(), .rows_used = ends.in()},
                     *gpu_stream()));
    out.down();
    q.down();
    for (i64 r = 0; r < 3000; ++r) {
      ASSERT_EQ(out.bits(r, 255) == kNan, r >= used) << r;
      ASSERT_EQ(std::isnan(q.scale_of(r, 1)), r >= used) << r;
    }
  }
}

TEST(CudaElementwise, EmbeddingAndGatheredRows) {
  NEED_GPU();
  for (const Size& s : {Size{3, 24}, Size{17, 80, 8}, Size{130, 7168}, Size{5, 37, 2, 1}}) {
    Rows table(50, s.n, s.padding, s.skew), out(s.rows, s.n, s.padding, s.skew), gathered(s.rows, s.n);
    table.randomise();
    std::vector<float> f;
    for (i64 r = 0; r < 50; ++r)
      for (i64 i = 0; i < s.n; ++i) f.push_back(table.at(r, i));
    const Both<float> table32(f);
    std::vector<i32> ids;
    for (i64 r = 0; r < s.rows; ++r) ids.push_back(below(50));
    ids.back() = 50;  // no such row
    const Both<i32> picks(ids);
    EXPECT_OK(gather_rows({.x = table.view(), .rows = picks.in(), .out = gathered.view()}, *gpu_stream()));
    for (const bool f32 : {false, true}) {
      const ConstView t = f32 ? ConstView(table32.gpu.get(), DType::kF32, {50, s.n}) : table.view();
      EXPECT_OK(embedding({.ids = picks.in(), .table = t, .out = out.view()}, *gpu_stream()));
      out.down().expect_padding_untouched();
      gathered.down();
      for (i64 r = 0; r < s.rows; ++r)
        for (i64 i = 0; i < s.n; ++i) {
          const i32 id = ids[static_cast<std::size_t>(r)];
          const u16 want = id == 50 ? kNan : table.bits(id, i);
          ASSERT_EQ(out.bits(r, i), want);
          ASSERT_EQ(gathered.bits(r, i), want);
        }
    }
  }
}

// Each kernel may start before the one ahead has ended; what they read and overwrite must not show it.
TEST(CudaElementwise, ChainsGiveTheSameBitsAsSingleSteps) {
  NEED_GPU();
  constexpr i64 kRows = 300, kColumns = 2048;
  const Both<float> weight(std::vector<float>(kColumns, 0.5f));
  const ConstView w(weight.gpu.get(), DType::kF32, {kColumns});
  std::vector<i32> order;
  for (i64 r = 0; r < kRows; ++r) order.push_back(below(static_cast<i32>(kRows)));
  const Both<i32> picks(order);
  Rows start(kRows, kColumns), y_start(kRows, 2 * kColumns);
  start.randomise();
  y_start.randomise();
  std::vector<u16> want;
  std::vector<u8> want_codes;
  for (const bool stepwise : {true, false}) {
    Rows x(kRows, kColumns), y(kRows, 2 * kColumns), h(kRows, kColumns), g(kRows, kColumns);
    QuantRows q(kRows, kColumns);
    x.mem.host = start.mem.host;
    y.mem.host = y_start.mem.host;
    x.mem.up();
    y.mem.up();
    const auto step = [&](const Status& s) {
      ASSERT_TRUE(s);
      if (stepwise) done();
    };
    const View half(y.mem.gpu.get(), DType::kBF16, {kRows, kColumns}, 2 * kColumns);
    for (int i = 0; i < 40; ++i) {
      step(swiglu({.gate_up = y.view(), .out = h.view(), .q = {}, .rows_used = {}}, *gpu_stream()));
      step(gather_rows({.x = h.view(), .rows = picks.in(), .out = g.view()}, *gpu_stream()));
      step(add_rms_norm({.x = x.view(), .y = g.view(), .weight = w, .out = half, .q = {}}, *gpu_stream()));
      step(add({.x = h.view(), .y = half}, *gpu_stream()));
      step(rms_norm({.x = h.view(), .weight = w, .out = g.view()}, *gpu_stream()));
      step(quantise({.x = g.view(), .q = q.view()}, *gpu_stream()));
    }
    if (stepwise) {
      want = x.down().mem.host;
      want_codes = q.down().codes.host;
    } else {
      ASSERT_EQ(x.down().mem.host, want);
      ASSERT_EQ(q.down().codes.host, want_codes);
    }
  }
}

// Refusals come before the stream is touched.
class NoStream final : public Stream {
  Status synchronize() override { return {}; }
};

TEST(CudaElementwise, RefusesByName) {
  NoStream stream;
  u16 memory[64] = {};
  float f[64] = {};
  const View x(memory, DType::kBF16, {2, 24}), y(memory, DType::kBF16, {2, 16}), x32(f, DType::kF32, {2, 24});
  const ConstView w(f, DType::kF32, {24}), w_short(f, DType::kF32, {16});
  const auto expect = [](const Status& s, const char* part) {
    ASSERT_FALSE(s);
    EXPECT_NE(s.error().message.find(part), std::string::npos) << s.error().message;
  };
  expect(rms_norm({.x = x32, .weight = w, .out = x}, stream), "rms_norm x is float32");
  expect(rms_norm({.x = x, .weight = w_short, .out = x}, stream), "16 columns, not 24");
  expect(add({.x = x, .y = y}, stream), "add y");
  expect(
      quantise({.x = x, .q = {View(memory, DType::kF8E4M3, {2, 24}), View(f, DType::kF32, {1, 8})}}, stream),
      "multiples of 16");
  expect(
      quantise({.x = y, .q = {View(memory, DType::kF8E4M3, {2, 16}), View(f, DType::kF32, {1, 2})}}, stream),
      "scales of [1, 2], not [1, 8]");
  expect(swiglu({.gate_up = x, .out = {}, .q = {}, .rows_used = {}}, stream), "neither");
  const View wide(memory, DType::kBF16, {1, 20000});
  const ConstView wide_w(f, DType::kF32, {20000});
  expect(rms_norm({.x = wide, .weight = wide_w, .out = wide}, stream), "at most 16384");
}

}  // namespace
}  // namespace trireme::cuda
