#include "backends/cuda/bench/operands.h"

#include <numeric>

namespace trireme::cuda {
namespace {

double d(i64 x) { return static_cast<double>(x); }

}  // namespace

KernelTime product_row(std::string kernel, std::string shape, bool fp8, i64 count, i64 rows, i64 n, i64 k,
                       i64 out_size) {
  const double width = fp8 ? 1 + 4.0 / 128 : 2;
  return {.kernel = std::move(kernel),
          .shape = std::move(shape),
          .flops = 2 * d(rows) * d(n) * d(k),
          .bytes = d(count) * d(n) * d(k) * (fp8 ? 1 + 4.0 / (128 * 128) : 2) + d(rows) * d(k) * width +
                   d(rows) * d(n) * d(out_size),
          .fp8 = fp8};
}

std::shared_ptr<PackedWeight> random_weight(RowMemory& m, bool fp8, i64 count, i64 n, i64 k,
                                            bool transposed) {
  auto w = std::make_shared<PackedWeight>();
  w->n = n, w->k = k, w->count = count, w->fp8 = fp8, w->transposed = transposed;
  w->data = m.buffer(fp8 ? Noise::kCodes : Noise::kBf16, count * n * k * (fp8 ? 1 : 2));
  if (fp8) w->scale = m.buffer(Noise::kScales, count * ceil_div(n, 128) * w->scale_stride() * 4);
  return w;
}

std::vector<i32> even_sizes(i64 experts, i64 rows) {
  return std::vector<i32>(static_cast<std::size_t>(experts), static_cast<i32>(rows));
}

std::vector<i32> ends_of(const std::vector<i32>& sizes) {
  std::vector<i32> ends(sizes.size());
  std::partial_sum(sizes.begin(), sizes.end(), ends.begin());
  return ends;
}

GemmFp8Args fp8_args(BenchSession& s, const Operands& o) {
  GemmFp8Args g;
  g.workspace = s.meeting_place();
  g.x = o.xq.codes.data, g.x_stride = o.xq.codes.row_stride;
  g.x_scale = o.xq.scale.as<float>(), g.x_scale_stride = o.xq.scale.row_stride;
  g.w = o.w.data.data(), g.w_scale = static_cast<const float*>(o.w.scale.data());
  g.w_scale_stride = static_cast<int>(o.w.scale_stride());
  g.out = o.out.mutable_data(), g.out_stride = o.out.row_stride, g.out_f32 = o.out.dtype == DType::kF32;
  g.n = static_cast<int>(o.w.n), g.k = static_cast<int>(o.w.k);
  return g;
}

GemmBf16Args bf16_args(BenchSession& s, const Operands& o) {
  GemmBf16Args g;
  g.workspace = s.meeting_place();
  g.x = o.x.data, g.x_stride = o.x.row_stride, g.w = o.w.data.data();
  g.out = o.out.mutable_data(), g.out_stride = o.out.row_stride, g.out_f32 = o.out.dtype == DType::kF32;
  g.n = static_cast<int>(o.w.n), g.k = static_cast<int>(o.w.k);
  return g;
}

GemmRows masked_rows(i64 experts, i64 rows, In<i32> counts) {
  GemmRows r;
  r.layout = RowLayout::masked;
  r.experts = static_cast<int>(experts), r.counts = counts.data();
  r.rows = experts * rows * 2, r.max_m = static_cast<int>(rows * 2);
  r.rows_hint = rows;
  return r;
}

Launch by_cublaslt(BenchSession& s, const Operands& o) {
  if (s.cublaslt() == nullptr) return nullptr;
  LtProduct p;
  p.rows = o.out.shape.rows(), p.n = o.w.n, p.k = o.w.k;
  if (o.w.fp8 && !CublasLt::takes_fp8(p.rows, p.n, p.k)) return nullptr;
  const ConstView& x = o.w.fp8 ? o.xq.codes : o.x;
  p.fp8 = o.w.fp8, p.out_f32 = o.out.dtype == DType::kF32;
  p.x = x.data, p.w = o.w.data.data(), p.out = o.out.mutable_data();
  p.x_stride = x.row_stride, p.w_stride = o.w.k, p.out_stride = o.out.row_stride;
  if (p.fp8) p.x_scale = o.xq.scale.as<float>(), p.w_scale = static_cast<const float*>(o.w.scale.data());
  return [&s, p] { return s.cublaslt()->run(p, s.stream()); };
}

}  // namespace trireme::cuda
