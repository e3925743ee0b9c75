// The gate and up product with SwiGLU behind it: in one kernel where that is faster, else in two.
#include "backends/cuda/elementwise.h"
#include "backends/cuda/heuristics/swiglu_choice.h"
#include "backends/cuda/linear.h"
#include "backends/cuda/sm90/gemm/gemm_swiglu.h"
#include "backends/cuda/views_check.h"

namespace trireme::cuda {
namespace {

const PackedWeight& packed(const std::shared_ptr<const void>& p) {
  return *static_cast<const PackedWeight*>(p.get());
}

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

// What a dense and a grouped call have in common.
struct Call {
  const PackedWeight& w;
  const Quantised& xq;
  const View& out;
  const Quantised& q;
  i64 n() const { return w.n / 2; }
  i64 rows() const { return xq.codes.shape.rows(); }
};

// Whether the fused kernel takes such a call at all.
bool takes(const Call& c) {
  if (!c.w.fp8 || !c.xq || c.n() % 128 != 0 || c.w.k % 16 != 0) return false;
  if (c.q && !aligned16(c.q.codes.data)) return false;
  return !c.out || (aligned16(c.out.data) && c.out.row_stride % 8 == 0);
}

Status check(const Call& c) {
  const i64 rows = c.rows(), n = c.n();
  if (!c.out && !c.q && rows > 0) return invalid("linear_swiglu: neither out nor q is given");
  TRY(check_quantised(c.xq, rows, c.w.k, "linear_swiglu xq"));
  if (c.out) TRY(check_matrix(c.out, rows, n, "linear_swiglu out"));
  if (c.q) TRY(check_quantised(c.q, rows, n, "linear_swiglu q"));
  return {};
}

GemmSwigluArgs args_of(const Call& c) {
  GemmSwigluArgs g;
  g.x = c.xq.codes.data, g.x_stride = c.xq.codes.row_stride;
  g.x_scale = c.xq.scale.as<float>(), g.x_scale_stride = c.xq.scale.row_stride;
  g.w = c.w.data.data(), g.w_scale = static_cast<const float*>(c.w.scale.data());
  g.w_scale_stride = static_cast<int>(c.w.scale_stride());
  if (c.q) {
    g.codes = static_cast<u8*>(c.q.codes.mutable_data());
    g.scale = static_cast<float*>(c.q.scale.mutable_data());
    g.scale_stride = c.q.scale.row_stride;
  }
  if (c.out) g.out = c.out.mutable_data(), g.out_stride = c.out.row_stride;
  g.n = static_cast<int>(c.n()), g.k = static_cast<int>(c.w.k);
  g.rows.rows = c.rows();
  return g;
}

SwigluShape shape_of(const Call& c) {
  return {.rows_per_group = std::max<i64>(1, ceil_div(c.rows(), c.w.count)),
          .groups = c.w.count,
          .n = c.n(),
          .k = c.w.k};
}

}  // namespace

Status LinearOps::linear_swiglu(const LinearSwigluArgs& a, CudaStream& stream) {
  if (a.w == nullptr || !a.w->packed) return invalid("linear_swiglu: the weight is not prepared");
  const Call c{packed(a.w->packed), a.xq, a.out, a.q};
  // Every variant has the same bits, so where these must not depend on the number of rows it runs always.
  if (takes(c) && !a.w->bias && (deterministic_ || swiglu_fused_is_faster(shape_of(c)))) {
    TRY(check(c));
    CUDA_TRY(gemm_swiglu(args_of(c), stream.handle()));
    return {};
  }
  TRY(linear({.x = a.x, .w = a.w, .out = a.gate_up, .xq = a.xq}, stream));
  return swiglu({.gate_up = a.gate_up, .out = a.out, .q = a.q}, stream);
}

Status LinearOps::grouped_linear_swiglu(const GroupedLinearSwigluArgs& a, CudaStream& stream) {
  if (a.w == nullptr || !a.w->packed) return invalid("grouped_linear_swiglu: the weight is not prepared");
  const Call c{packed(a.w->packed), a.xq, a.out, a.q};
  if (takes(c) && (deterministic_ || swiglu_fused_is_faster(shape_of(c)))) {
    TRY(check(c));
    if (static_cast<i64>(a.expert_end.size()) != c.w.count)
      return invalid("grouped_linear_swiglu: {} ends, {} experts", a.expert_end.size(), c.w.count);
    GemmSwigluArgs g = args_of(c);
    g.rows.layout = RowLayout::packed;
    g.rows.experts = static_cast<int>(c.w.count);
    g.rows.counts = a.expert_end.data();
    CUDA_TRY(gemm_swiglu(g, stream.handle()));
    return {};
  }
  TRY(grouped_linear({.x = a.x, .expert_end = a.expert_end, .w = a.w, .out = a.gate_up, .xq = a.xq}, stream));
  return swiglu({.gate_up = a.gate_up, .out = a.out, .q = a.q, .rows_used = a.expert_end}, stream);
}

}  // namespace trireme::cuda
