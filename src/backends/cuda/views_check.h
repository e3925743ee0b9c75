// What the CUDA bindings refuse before they launch: wrong types and shapes, by name. Index arrays are on the
// device and are not looked at.
#pragma once
#include "ops/ops.h"

namespace trireme::cuda {

inline Status check_act(const ConstView& v, const char* what) {
  if (v.dtype != DType::kBF16) {
    return fail(ErrorCode::kUnsupported, "{} is {}; this backend's activations are bfloat16", what,
                to_string(v.dtype));
  }
  if (v.data == nullptr && v.shape.elements() > 0) return invalid("{} is empty", what);
  if (v.row_stride < v.shape.cols())
    return invalid("{} has rows of {} with a stride of {}", what, v.shape.cols(), v.row_stride);
  return {};
}

inline Status check_matrix(const ConstView& v, i64 rows, i64 cols, const char* what) {
  TRY(check_act(v, what));
  if (v.shape.rows() != rows || v.shape.cols() != cols)
    return invalid("{} is {}, not {} rows of {}", what, to_string(v.shape), rows, cols);
  return {};
}

inline Status check_heads(const ConstView& v, i64 tokens, i64 heads, i64 dim, const char* what) {
  TRY(check_act(v, what));
  if (v.shape != Shape{tokens, heads, dim})
    return invalid("{} is {}, not [{}, {}, {}]", what, to_string(v.shape), tokens, heads, dim);
  return {};
}

inline Status check_quantised(const Quantised& q, i64 rows, i64 k, const char* what) {
  if (q.codes.dtype != DType::kF8E4M3 || q.scale.dtype != DType::kF32)
    return invalid("{} is {} with scales of {}, not float8_e4m3 and float32", what, to_string(q.codes.dtype),
                   to_string(q.scale.dtype));
  if (k % 16 != 0)
    return fail(ErrorCode::kUnsupported, "{}: rows of {}; quantised rows are multiples of 16", what, k);
  if (q.codes.shape.rows() != rows || q.codes.shape.cols() != k || !q.codes.dense())
    return invalid("{} has codes of {}, not {} dense rows of {}", what, to_string(q.codes.shape), rows, k);
  if (rows > 0 && q.scale.data == nullptr) return invalid("{} has no scales", what);
  if (q.scale.shape.rows() != ceil_div(k, 128) || q.scale.shape.cols() != quantised_rows(rows))
    return invalid("{} has scales of {}, not [{}, {}]", what, to_string(q.scale.shape), ceil_div(k, 128),
                   quantised_rows(rows));
  return {};
}

// [n] or [.., n] float32 or BF16.
inline Status check_weight(const ConstView& w, i64 n, const char* what) {
  if (w.dtype != DType::kF32 && w.dtype != DType::kBF16)
    return fail(ErrorCode::kUnsupported, "{} of {}; use float32 or bfloat16", what, to_string(w.dtype));
  if (w.data == nullptr || w.shape.cols() != n)
    return invalid("{} has {} columns, not {}", what, w.shape.cols(), n);
  return {};
}

template <class T>
Status check_count(std::span<T> s, i64 n, const char* what) {
  if (static_cast<i64>(s.size()) != n) return invalid("{} has {} entries, not {}", what, s.size(), n);
  return {};
}

}  // namespace trireme::cuda
