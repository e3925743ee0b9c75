// The small layers: one op each, with their output taken from the arena.
#pragma once
#include "layers/context.h"

namespace trireme::layers {

// The input of matrix products: values of the activation type, their quantised form, or both.
struct Activation {
  ConstView x;  // [rows, n] act, or empty
  Quantised q;  // [rows, n], or empty
  i64 rows() const { return x ? x.shape.rows() : q.codes.shape.rows(); }
  i64 cols() const { return x ? x.shape.cols() : q.codes.shape.cols(); }
};

inline Result<Quantised> take_quantised(const Context& c, i64 rows, i64 k) {
  Quantised q;
  ASSIGN(q.codes, c.arena.take(DType::kF8E4M3, {rows, k}));
  ASSIGN(q.scale, c.arena.take(DType::kF32, {ceil_div(k, 128), quantised_rows(rows)}));
  return q;
}

// Makes sure that x has the form that a weight wants. Quantises at most once, however many weights ask.
inline Status provide(const Context& c, Activation& a, bool fp8_input) {
  if (!fp8_input || a.q) return {};
  ASSIGN(a.q, take_quantised(c, a.rows(), a.cols()));
  return c.ops.quantise({.x = a.x, .q = a.q}, c.stream);
}

inline Status linear_into(const Context& c, Activation& x, const LinearWeight& w, const View& out) {
  TRY(provide(c, x, w.fp8_input));
  return c.ops.linear({.x = x.x, .w = &w, .out = out, .xq = w.fp8_input ? x.q : Quantised{}}, c.stream);
}

inline Result<View> linear(const Context& c, Activation& x, const LinearWeight& w) {
  ASSIGN(View out, c.take({x.rows(), w.n}));
  TRY(linear_into(c, x, w, out));
  return out;
}

inline Result<View> linear_f32(const Context& c, Activation& x, const LinearWeight& w) {
  ASSIGN(View out, c.arena.take(DType::kF32, {x.rows(), w.n}));
  TRY(linear_into(c, x, w, out));
  return out;
}

// Which forms of a norm its readers want.
struct Want {
  bool x = true, q = false;
};

// x += y (if y is given), then the norm of x. x may be a column slice of a wider matrix where y is empty.
inline Result<Activation> add_rms_norm(const Context& c, const View& x, const ConstView& y,
                                       const ConstView& weight, float eps, Want want) {
  Activation out;
  View normed;
  if (want.x || !want.q) {
    ASSIGN(normed, c.take({x.shape.rows(), x.shape.cols()}));
    out.x = normed;
  }
  if (c.ops.add_rms_norm != nullptr) {
    if (want.q) {
      ASSIGN(out.q, take_quantised(c, x.shape.rows(), x.shape.cols()));
    }
    TRY(c.ops.add_rms_norm({.x = x, .y = y, .weight = weight, .out = normed, .q = out.q, .eps = eps},
                           c.stream));
    return out;
  }
  CHECK(!want.q, "a backend with FP8 inputs has no add_rms_norm");
  if (y) TRY(c.ops.add({.x = x, .y = y}, c.stream));
  TRY(c.ops.rms_norm({.x = x, .weight = weight, .out = normed, .eps = eps}, c.stream));
  return out;
}

inline Result<View> rms_norm(const Context& c, const ConstView& x, const ConstView& weight, float eps) {
  ASSIGN(View out, c.take({x.shape.rows(), x.shape.cols()}));
  TRY(c.ops.rms_norm({.x = x, .weight = weight, .out = out, .eps = eps}, c.stream));
  return out;
}

// Columns [begin, begin + n) of a matrix.
inline View columns(const View& x, i64 begin, i64 n) {
  return View(static_cast<char*>(x.mutable_data()) + begin * size_of(x.dtype), x.dtype, {x.shape.rows(), n},
              x.row_stride);
}

}  // namespace trireme::layers
