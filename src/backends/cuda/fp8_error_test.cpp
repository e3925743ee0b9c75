// The error of every FP8 variant beside cuBLASLt's own, both against sums in float64 of the same codes and
// scales: what a kernel may lose to the tensor cores' short sums is what the library loses to them.
#include "backends/cuda/cublaslt/cublaslt.h"
#include "backends/cuda/glue_test_util.h"
#include "backends/cuda/heuristics/gemm_tile.h"
#include "backends/cuda/sm90/gemm/gemm.h"
#include "tensor/dtype.h"

namespace trireme::cuda {
namespace {

using namespace testing_glue;

struct Shape {
  i64 rows, n, k;
};

float as_float(float v) { return v; }
float as_float(u16 v) { return value(v); }

class Product {
 public:
  explicit Product(const Shape& of)
      : s(of),
        x(codes(of.rows * of.k)),
        w(codes(of.n * of.k)),
        x_scale(scales(of.k / 128 * of.rows)),
        w_scale(scales((of.n + 127) / 128 * w_scale_stride())),
        expected(static_cast<std::size_t>(of.rows * of.n)) {
    std::vector<float> xf(x.host.size()), wf(w.host.size());
    std::transform(x.host.begin(), x.host.end(), xf.begin(), f8e4m3_to_float);
    std::transform(w.host.begin(), w.host.end(), wf.begin(), f8e4m3_to_float);
    for (i64 r = 0; r < s.rows; ++r) {
      for (i64 c = 0; c < s.n; ++c) expected[at(r * s.n + c)] = sum(&xf[at(r * s.k)], &wf[at(c * s.k)], r, c);
    }
  }

  // Relative to the root of the mean square of what is expected.
  template <class T>
  double ours(int variant, CudaStream& stream, const GemmWorkspace& there) const {
    Both<T> out(expected.size());
    GemmFp8Args a;
    a.x = x.gpu.get(), a.x_stride = s.k, a.x_scale = x_scale.gpu.get(), a.x_scale_stride = s.rows;
    a.w = w.gpu.get(), a.w_scale = w_scale.gpu.get(), a.w_scale_stride = static_cast<int>(w_scale_stride());
    a.out = out.gpu.get(), a.out_stride = s.n, a.out_f32 = sizeof(T) == 4;
    a.n = static_cast<int>(s.n), a.k = static_cast<int>(s.k);
    a.rows.rows = s.rows;
    a.workspace = there;
    a.variant = variant;
    EXPECT_EQ(gemm_fp8(a, stream.handle()), cudaSuccess) << "variant " << variant;
    return error(out);
  }

  template <class T>
  Result<double> theirs(CublasLt& lt, CudaStream& stream) const {
    Both<T> out(expected.size());
    LtProduct p;
    p.rows = s.rows, p.n = s.n, p.k = s.k, p.fp8 = true, p.out_f32 = sizeof(T) == 4;
    p.x = x.gpu.get(), p.w = w.gpu.get(), p.out = out.gpu.get();
    p.x_stride = p.w_stride = s.k, p.out_stride = s.n;
    p.x_scale = x_scale.gpu.get(), p.w_scale = w_scale.gpu.get();
    TRY(lt.run(p, stream));
    return error(out);
  }

 private:
  static std::size_t at(i64 i) { return static_cast<std::size_t>(i); }
  static std::vector<u8> codes(i64 count) {
    std::vector<u8> v(at(count));
    for (u8& c : v) c = float_to_f8e4m3(100 * normal());
    return v;
  }
  static std::vector<float> scales(i64 count) {
    std::vector<float> v(at(count));
    for (float& f : v) f = (0.5f + static_cast<float>(below(1000)) / 1000) / 128;
    return v;
  }
  i64 w_scale_stride() const { return (s.k / 128 + 3) / 4 * 4; }

  double sum(const float* xr, const float* wc, i64 r, i64 c) const {
    double all = 0;
    for (i64 b = 0; b < s.k / 128; ++b) {
      double part = 0;
      for (i64 i = 128 * b; i < 128 * (b + 1); ++i)
        part += static_cast<double>(xr[i]) * static_cast<double>(wc[i]);
      all += part * static_cast<double>(x_scale.host[at(b * s.rows + r)]) *
             static_cast<double>(w_scale.host[at(c / 128 * w_scale_stride() + b)]);
    }
    return all;
  }

  template <class T>
  double error(Both<T>& out) const {
    const std::vector<T>& got = out.down();
    double off = 0, all = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double d = static_cast<double>(as_float(got[i])) - expected[i];
      off += d * d;
      all += expected[i] * expected[i];
    }
    return std::sqrt(off / all);
  }

  const Shape s;
  Both<u8> x, w;
  Both<float> x_scale, w_scale;
  std::vector<double> expected;
};

// Both round the same sums; nothing but the order of additions differs.
constexpr double kSame = 1.01;

TEST(Fp8Error, IsNoLargerThanCublasLtsOwn) {
  NEED_GPU();
  auto& stream = *static_cast<CudaStream*>(gpu_stream());
  auto lt = CublasLt::open();
  if (!lt) GTEST_SKIP() << "no cuBLASLt: " << lt.error().message;
  Both<u8> meeting(static_cast<std::size_t>(gemm_workspace_bytes(stream.device().sms())));
  const GemmWorkspace there = {meeting.gpu.get(), static_cast<i64>(meeting.host.size())};
  for (const Shape& s :
       {Shape{128, 264, 7168}, Shape{64, 1024, 1536}, Shape{256, 256, 2048}, Shape{40, 128, 16384}}) {
    const Product p(s);
    const auto rounded = p.theirs<u16>(**lt, stream);
    ASSERT_TRUE(rounded) << rounded.error().message;
    const auto exact = p.theirs<float>(**lt, stream);  // not every version writes float32
    double worst_rounded = 0, worst_exact = 0;
    for (int v = 0; v < kFp8TileCount; ++v) {
      const double mine_rounded = p.ours<u16>(v, stream, there), mine_exact = p.ours<float>(v, stream, there);
      worst_rounded = std::max(worst_rounded, mine_rounded), worst_exact = std::max(worst_exact, mine_exact);
      EXPECT_LE(mine_rounded, kSame * *rounded) << "variant " << v;
      if (exact) {
        EXPECT_LE(mine_exact, kSame * *exact) << "variant " << v;
      }
    }
    fmt::print("m{} n{} k{}: BF16 {:.3e}, cuBLASLt {:.3e}; float32 {:.3e}, cuBLASLt {}\n", s.rows, s.n, s.k,
               worst_rounded, *rounded, worst_exact, exact ? fmt::format("{:.3e}", *exact) : "has none");
  }
}

}  // namespace
}  // namespace trireme::cuda
