#include "backends/cuda/linear.h"

#include <algorithm>

#include "backends/cuda/attention.h"
#include "backends/cuda/heuristics/dense_choice.h"
#include "backends/cuda/heuristics/head_choice.h"
#include "backends/cuda/heuristics/router_tile.h"
#include "backends/cuda/sm90/gemm/gemm.h"
#include "backends/cuda/sm90/head_gemm/head_gemm.h"
#include "backends/cuda/sm90/mla_decode/mla_decode.h"
#include "backends/cuda/sm90/router_gemm/router_gemm.h"
#include "backends/cuda/smxx/matrix.h"
#include "backends/cuda/views_check.h"

namespace trireme::cuda {
namespace {

// Some FP8 variants add up parts of K apart; where bits must not depend on the number of rows, one that does
// not.
constexpr int kFixedTile = 0;

// A router's logits: where cuBLASLt is not used, its kernel has no other to beat below so many.
constexpr i64 kMostRouterColumns = 512;

const PackedWeight& packed(const std::shared_ptr<const void>& p) {
  return *static_cast<const PackedWeight*>(p.get());
}

Status is_activation(const ConstView& x, i64 k, const char* what) {
  if (x.dtype != DType::kBF16) return invalid("{} is {}, not bfloat16", what, to_string(x.dtype));
  if (x.shape.cols() != k) return invalid("{} has {} columns, the weight {}", what, x.shape.cols(), k);
  return {};
}

Status is_output(const ConstView& out, i64 rows, i64 n, const char* what) {
  if (out.dtype != DType::kBF16 && out.dtype != DType::kF32)
    return invalid("{} is {}, neither bfloat16 nor float32", what, to_string(out.dtype));
  if (out.shape.rows() != rows || out.shape.cols() != n)
    return invalid("{} is {}, not [{}, {}]", what, to_string(out.shape), rows, n);
  return {};
}

Status is_quantised(const Quantised& q, i64 k, const char* what) {
  if (!q || q.codes.shape.cols() != k || !q.codes.dense())
    return invalid("{} are not quantised rows of {}", what, k);
  if (q.scale.shape.elements() != ceil_div(k, 128) * quantised_rows(q.codes.shape.rows()))
    return invalid("{} have scales of another shape", what);
  return {};
}

// 16-byte rows, as the tensor core kernels read and write them.
bool aligned(const void* data, i64 stride, i64 size) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride * size % 16 == 0;
}

Status check_row_weight(const GroupedLinearArgs& a, i64 rows) {
  if (a.row_weight.empty() || static_cast<i64>(a.row_weight.size()) == rows) return {};
  return invalid("grouped_linear: {} weights of {} rows", a.row_weight.size(), rows);
}

}  // namespace

Result<GemmWorkspace> LinearOps::meeting_place(CudaStream& stream) {
  if (deterministic_) return GemmWorkspace{};
  // Made at the stream's first call that is not being recorded; without it no tile is shared.
  Buffer& there = meeting_[&stream];
  if (there.data() == nullptr && !stream.capturing()) {
    const int sms = stream.device().sms();
    ASSIGN(there, stream.device().allocate(gemm_workspace_bytes(sms)));
    CUDA_TRY(cudaMemsetAsync(there.data(), 0, static_cast<std::size_t>(there.bytes()), stream.handle()));
  }
  return GemmWorkspace{there.data(), there.bytes()};
}

bool LinearOps::by_cublaslt(const PackedWeight& w, i64 rows) const {
  if (!lt_ || deterministic_) return false;
  return !w.fp8 || (CublasLt::takes_fp8(rows, w.n, w.k) && cublaslt_is_faster(rows, w.n, w.k));
}

// Our own kernel takes any number of rows; cuBLASLt those that it can, where it is the faster one.
Status LinearOps::fp8_linear(const LinearArgs& a, const PackedWeight& w, const GemmFinish& finish,
                             CudaStream& stream) {
  TRY(is_quantised(a.xq, w.k, "linear xq"));
  const i64 rows = a.xq.codes.shape.rows();
  TRY(is_output(a.out, rows, w.n, "linear out"));
  if (by_cublaslt(w, rows)) {
    LtProduct p;
    p.rows = rows, p.n = w.n, p.k = w.k;
    p.fp8 = true, p.out_f32 = a.out.dtype == DType::kF32;
    p.x = a.xq.codes.data, p.w = w.data.data(), p.out = a.out.mutable_data();
    p.x_stride = a.xq.codes.row_stride, p.w_stride = w.k, p.out_stride = a.out.row_stride;
    p.x_scale = a.xq.scale.as<float>(), p.w_scale = static_cast<const float*>(w.scale.data());
    return lt_->run(p, stream);
  }
  GemmFp8Args g;
  g.x = a.xq.codes.data;
  g.x_stride = a.xq.codes.row_stride;
  g.x_scale = a.xq.scale.as<float>();
  g.x_scale_stride = quantised_rows(rows);
  g.w = w.data.data();
  g.w_scale = static_cast<const float*>(w.scale.data());
  g.w_scale_stride = static_cast<int>(w.scale_stride());
  g.out = a.out.mutable_data();
  g.out_stride = a.out.row_stride;
  g.out_f32 = a.out.dtype == DType::kF32;
  g.n = static_cast<int>(w.n), g.k = static_cast<int>(w.k);
  g.rows.rows = rows;
  g.finish = finish;
  ASSIGN(g.workspace, meeting_place(stream));
  g.variant = deterministic_ ? kFixedTile : -1;
  CUDA_TRY(gemm_fp8(g, stream.handle()));
  return {};
}

Status LinearOps::bf16_linear(const LinearArgs& a, const PackedWeight& w, CudaStream& stream) {
  TRY(is_activation(a.x, w.k, "linear x"));
  const i64 rows = a.x.shape.rows();
  TRY(is_output(a.out, rows, w.n, "linear out"));
  if (rows == 0) return {};
  View out = a.out;
  if (w.terms > 1 && a.out.dtype != DType::kF32) {  // the terms are added up in float32
    ASSIGN(void* sum, stream.scratch(Scratch::kSums, rows * w.n * 4));
    out = View(sum, DType::kF32, {rows, w.n});
  }
  const bool f32 = out.dtype == DType::kF32;
  const bool tiles = w.n % 8 == 0 && w.k % 8 == 0 && aligned(a.x.data, a.x.row_stride, 2) &&
                     aligned(out.data, out.row_stride, size_of(out.dtype));
  const bool alone = !lt_ || deterministic_;
  if (w.terms == 1 && f32 && w.k % 8 == 0 && aligned(a.x.data, a.x.row_stride, 2) &&
      (router_gemm_is_faster(rows, w.n, w.k) || (alone && w.n <= kMostRouterColumns))) {
    RouterGemmArgs g;
    g.x = a.x.data, g.x_stride = a.x.row_stride, g.w = w.member(0);
    g.out = static_cast<float*>(out.mutable_data()), g.out_stride = out.row_stride;
    g.rows = rows, g.n = static_cast<int>(w.n), g.k = static_cast<int>(w.k);
    CUDA_TRY(router_gemm(g, stream.handle()));
    return {};
  }
  for (int t = 0; t < w.terms; ++t) {
    const char* const matrix = w.member(t);
    if (!alone) {
      LtProduct p;
      p.rows = rows, p.n = w.n, p.k = w.k;
      p.out_f32 = f32, p.accumulate = t > 0;
      p.x = a.x.data, p.w = matrix, p.out = out.mutable_data();
      p.x_stride = a.x.row_stride, p.w_stride = w.k, p.out_stride = out.row_stride;
      TRY(lt_->run(p, stream));
    } else if (tiles && w.terms == 1) {
      GemmBf16Args g;
      g.x = a.x.data, g.x_stride = a.x.row_stride, g.w = matrix;
      g.out = out.mutable_data(), g.out_stride = out.row_stride, g.out_f32 = f32;
      g.n = static_cast<int>(w.n), g.k = static_cast<int>(w.k);
      g.rows.rows = rows;
      CUDA_TRY(gemm_bf16(g, stream.handle()));
    } else {
      PlainGemmArgs g;
      g.x = a.x.data, g.x_stride = a.x.row_stride, g.w = matrix;
      g.out = out.mutable_data(), g.out_stride = out.row_stride, g.out_f32 = f32;
      g.accumulate = t > 0;
      g.rows = rows, g.n = w.n, g.k = w.k;
      CUDA_TRY(plain_gemm(g, stream.handle()));
    }
  }
  if (out.data == a.out.data) return {};
  CUDA_TRY(finish_rows({.value = out.data,
                        .value_f32 = true,
                        .value_stride = out.row_stride,
                        .bias = nullptr,
                        .out = a.out.mutable_data(),
                        .out_f32 = false,
                        .out_stride = a.out.row_stride,
                        .rows = rows,
                        .n = w.n},
                       stream.handle()));
  return {};
}

Status LinearOps::linear(const LinearArgs& a, CudaStream& stream) {
  if (a.w == nullptr || !a.w->packed) return invalid("linear: the weight is not prepared");
  const PackedWeight& w = packed(a.w->packed);
  const i64 rows = a.out.shape.rows();
  const bool f32 = a.out.dtype == DType::kF32;
  const float* const bias = a.w->bias ? a.w->bias.as<float>() : nullptr;
  if (a.residual) {
    if (a.residual.dtype != a.out.dtype)
      return invalid("linear: a residual of {} for an output of {}", to_string(a.residual.dtype),
                     to_string(a.out.dtype));
    TRY(is_output(a.residual, rows, w.n, "linear residual"));
  }
  // Our own kernel finishes its products itself.
  if (w.fp8 && !by_cublaslt(w, rows) &&
      (!a.residual || aligned(a.residual.data, a.residual.row_stride, size_of(a.residual.dtype)))) {
    return fp8_linear(
        a, w, {.bias = bias, .residual = a.residual.data, .residual_stride = a.residual.row_stride}, stream);
  }
  LinearArgs product = a;
  if (a.residual) {
    // The residual may be what out holds. Apart from it the product stays float32.
    ASSIGN(void* sum, stream.scratch(Scratch::kSums, rows * w.n * 4));
    product.out = View(sum, DType::kF32, {rows, w.n});
  }
  TRY(w.fp8 ? fp8_linear(product, w, {}, stream) : bf16_linear(product, w, stream));
  if (!a.w->bias && !a.residual) return {};
  CUDA_TRY(finish_rows({.value = product.out.data,
                        .value_f32 = product.out.dtype == DType::kF32,
                        .value_stride = product.out.row_stride,
                        .bias = bias,
                        .residual = a.residual.data,
                        .residual_stride = a.residual.row_stride,
                        .out = a.out.mutable_data(),
                        .out_f32 = f32,
                        .out_stride = a.out.row_stride,
                        .rows = rows,
                        .n = w.n},
                       stream.handle()));
  return {};
}

Status LinearOps::warm(CudaStream& stream) {
  constexpr i64 kMostRows = 8192;
  if (!lt_ || deterministic_) return {};
  for (const auto& [n, k, fp8] : shapes_) {
    if (fp8 && !(CublasLt::takes_fp8(8, n, k) && cublaslt_is_faster(kMostRows, n, k))) continue;
    LtProduct p;
    p.rows = kMostRows, p.n = n, p.k = k, p.fp8 = fp8;
    p.x_stride = p.w_stride = k, p.out_stride = n;
    // Only asked about, never read.
    p.x_scale = p.w_scale = reinterpret_cast<const float*>(std::uintptr_t{256});
    for (const bool f32 : {false, true}) {
      p.out_f32 = f32;
      // A shape that the library refuses is refused by name when it is multiplied.
      static_cast<void>(lt_->warm(p, stream));
    }
  }
  return {};
}

Status LinearOps::head_linear(const HeadLinearArgs& a, CudaStream& stream) {
  if (a.w == nullptr || !a.w->packed) return invalid("head_linear: the weight is not prepared");
  const PackedWeight& w = packed(a.w->packed);
  const i64 tokens = a.x.shape[0];
  if (a.x.shape.rank != 3 || a.x.shape[1] != w.count)
    return invalid("head_linear: x is not [tokens, {}, k]", w.count);
  TRY(is_activation(a.x, w.k, "head_linear x"));
  TRY(is_output(a.out, tokens * w.count, w.n, "head_linear out"));
  if (tokens == 0) return {};
  const bool f32 = a.out.dtype == DType::kF32;
  const HeadProblem shape{.tokens = tokens,
                          .heads = static_cast<int>(w.count),
                          .n = static_cast<int>(w.n),
                          .k = static_cast<int>(w.k),
                          .fp8 = w.fp8};
  const bool ours = !f32 && head_gemm_takes(shape.n, shape.k) && (w.fp8 || w.transposed == (w.k == 128)) &&
                    aligned(a.x.data, a.x.row_stride, 2) && aligned(a.out.data, a.out.row_stride, 2);
  if (w.fp8 && !ours) return invalid("head_linear: FP8 weights take and give rows of bfloat16 on 16 bytes");
  if (ours && (w.fp8 || deterministic_ || !lt_ || head_gemm_is_faster(shape))) {
    HeadGemmArgs g;
    g.x = a.x.data, g.x_head_stride = a.x.row_stride, g.x_token_stride = w.count * a.x.row_stride;
    g.w = w.data.data();
    if (w.fp8) g.w_scale = static_cast<const float*>(w.scale.data());
    g.w_scale_stride = static_cast<int>(w.scale_stride());
    g.out = a.out.mutable_data();
    g.out_head_stride = a.out.row_stride, g.out_token_stride = w.count * a.out.row_stride;
    g.shape = shape;
    CUDA_TRY(head_gemm(g, stream.handle()));
    return {};
  }
  if (lt_ && !deterministic_) {
    LtProduct p;
    p.rows = tokens, p.n = w.n, p.k = w.k, p.batch = w.count;
    p.out_f32 = f32, p.w_transposed = w.transposed;
    p.x = a.x.data, p.w = w.data.data(), p.out = a.out.mutable_data();
    p.x_stride = w.count * a.x.row_stride, p.x_next = a.x.row_stride;
    p.w_stride = w.transposed ? w.n : w.k, p.w_next = w.n * w.k;
    p.out_stride = w.count * a.out.row_stride, p.out_next = a.out.row_stride;
    return lt_->run(p, stream);
  }
  PlainGemmArgs g;
  g.x = a.x.data, g.x_stride = w.count * a.x.row_stride, g.x_next = a.x.row_stride;
  g.w = w.data.data(), g.w_next = w.n * w.k, g.w_transposed = w.transposed;
  g.out = a.out.mutable_data(), g.out_stride = w.count * a.out.row_stride, g.out_next = a.out.row_stride;
  g.out_f32 = f32;
  g.rows = tokens, g.n = w.n, g.k = w.k, g.batch = static_cast<int>(w.count);
  CUDA_TRY(plain_gemm(g, stream.handle()));
  return {};
}

Status LinearOps::mla_query(const MlaQueryArgs& a, CudaStream& stream) {
  if (a.q.shape.rank != 3 || a.nope <= 0 || a.nope >= a.q.shape[2])
    return invalid("mla_query: q is {}, {} values of it without position", to_string(a.q.shape), a.nope);
  if (a.w_uk == nullptr || !a.w_uk->packed) return invalid("mla_query: the weight is not prepared");
  const PackedWeight& w = packed(a.w_uk->packed);
  const i64 tokens = a.q.shape[0], heads = a.q.shape[1], rows = tokens * heads;
  TRY(check_act(a.q, "mla_query q"));
  TRY(check_heads(a.out, tokens, heads, w.n, "mla_query out"));
  if (heads != w.count || a.out.row_stride != w.n)
    return invalid("mla_query: {} heads for a weight of {}, into rows {} apart", heads, w.count,
                   a.out.row_stride);
  if (tokens == 0) return {};
  const auto part = [&](i64 begin, i64 n) {
    return ConstView(static_cast<const BF16*>(a.q.data) + begin, a.q.dtype, {tokens, heads, n},
                     a.q.row_stride);
  };
  const ConstView rope = part(a.nope, a.q.shape[2] - a.nope);
  HeadLinearArgs product{.x = part(0, a.nope), .w = a.w_uk, .out = a.out};
  const auto room = mla_code_room(a.cache.layout, a.seqs.seqs(), a.out, rope);
  if (!room) return head_linear(product, stream);
  if (rope.shape[2] != a.cache.layout.rope_dim)
    return invalid("mla_query: {} rope values, the cache has {}", rope.shape[2], a.cache.layout.rope_dim);
  if (w.bound.data() == nullptr || !aligned(a.q.data, a.q.row_stride, 2)) {
    // A product that does not know its largest value beforehand.
    ASSIGN(void* scratch, stream.scratch(Scratch::kAttention, rows * w.n * 2));
    product.out = View(scratch, DType::kBF16, {tokens, heads, w.n});
    TRY(head_linear(product, stream));
    CUDA_TRY(mla_query_rows(
        {scratch, w.n, rope.data, rope.row_stride, rows, a.cache.latent_scale, room->rows, room->scale},
        stream.handle()));
    return {};
  }
  HeadGemmArgs g;
  g.x = a.q.data, g.x_head_stride = a.q.row_stride, g.x_token_stride = heads * a.q.row_stride;
  g.w = w.data.data();
  g.codes = {.rows = room->rows,
             .row_bytes = kMlaQueryRow,
             .scale = room->scale,
             .bound = static_cast<const float*>(w.bound.data()),
             .rope = rope.data,
             .latent_scale = a.cache.latent_scale};
  g.shape = {.tokens = tokens,
             .heads = static_cast<int>(heads),
             .n = static_cast<int>(w.n),
             .k = static_cast<int>(w.k)};
  CUDA_TRY(head_gemm(g, stream.handle()));
  return {};
}

Status LinearOps::grouped_linear(const GroupedLinearArgs& a, CudaStream& stream) {
  if (a.w == nullptr || !a.w->packed) return invalid("grouped_linear: the weight is not prepared");
  const PackedWeight& w = packed(a.w->packed);
  if (static_cast<i64>(a.expert_end.size()) != w.count)
    return invalid("grouped_linear: {} ends, {} experts", a.expert_end.size(), w.count);
  GemmRows rows;
  rows.layout = RowLayout::packed;
  rows.experts = static_cast<int>(w.count);
  rows.counts = a.expert_end.data();
  const bool f32 = a.out.dtype == DType::kF32;
  if (w.fp8) {
    TRY(is_quantised(a.xq, w.k, "grouped_linear xq"));
    rows.rows = a.xq.codes.shape.rows();
    TRY(is_output(a.out, rows.rows, w.n, "grouped_linear out"));
    GemmFp8Args g;
    g.x = a.xq.codes.data, g.x_stride = a.xq.codes.row_stride;
    g.x_scale = a.xq.scale.as<float>(), g.x_scale_stride = quantised_rows(rows.rows);
    g.w = w.data.data(), g.w_scale = static_cast<const float*>(w.scale.data());
    g.w_scale_stride = static_cast<int>(w.scale_stride());
    g.out = a.out.mutable_data(), g.out_stride = a.out.row_stride, g.out_f32 = f32;
    g.n = static_cast<int>(w.n), g.k = static_cast<int>(w.k);
    g.rows = rows;
    TRY(check_row_weight(a, rows.rows));
    if (!a.row_weight.empty()) g.finish.row_weight = a.row_weight.data();
    ASSIGN(g.workspace, meeting_place(stream));
    g.variant = deterministic_ ? kFixedTile : -1;
    CUDA_TRY(gemm_fp8(g, stream.handle()));
    return {};
  }
  TRY(is_activation(a.x, w.k, "grouped_linear x"));
  rows.rows = a.x.shape.rows();
  TRY(is_output(a.out, rows.rows, w.n, "grouped_linear out"));
  TRY(check_row_weight(a, rows.rows));
  if (w.n % 8 == 0 && w.k % 8 == 0 && aligned(a.x.data, a.x.row_stride, 2) &&
      aligned(a.out.data, a.out.row_stride, size_of(a.out.dtype))) {
    GemmBf16Args g;
    g.x = a.x.data, g.x_stride = a.x.row_stride, g.w = w.data.data();
    g.out = a.out.mutable_data(), g.out_stride = a.out.row_stride, g.out_f32 = f32;
    g.n = static_cast<int>(w.n), g.k = static_cast<int>(w.k);
    g.rows = rows;
    if (!a.row_weight.empty()) g.finish.row_weight = a.row_weight.data();
    CUDA_TRY(gemm_bf16(g, stream.handle()));
    return {};
  }
  PlainGemmArgs g;
  g.x = a.x.data, g.x_stride = a.x.row_stride, g.w = w.data.data();
  g.out = a.out.mutable_data(), g.out_stride = a.out.row_stride, g.out_f32 = f32;
  g.rows = rows.rows, g.n = w.n, g.k = w.k;
  g.experts = rows.experts, g.expert_end = rows.counts;
  CUDA_TRY(plain_gemm(g, stream.handle()));
  if (a.row_weight.empty()) return {};
  CUDA_TRY(finish_rows({.value = a.out.data,
                        .value_f32 = f32,
                        .value_stride = a.out.row_stride,
                        .weight = a.row_weight.data(),
                        .rows_used = &a.expert_end.back(),
                        .out = a.out.mutable_data(),
                        .out_f32 = f32,
                        .out_stride = a.out.row_stride,
                        .rows = rows.rows,
                        .n = w.n},
                       stream.handle()));
  return {};
}

}  // namespace trireme::cuda
