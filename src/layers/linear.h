// The small layers: one op each, with their output taken from the arena.
#pragma once
#include "layers/context.h"

namespace trireme::layers {

inline Result<View> linear(const Context& c, const ConstView& x, const LinearWeight& w) {
  ASSIGN(View out, c.take({x.shape.rows(), w.n}));
  TRY(c.ops.linear({.x = x, .w = &w, .out = out}, c.stream));
  return out;
}

inline Result<View> linear_f32(const Context& c, const ConstView& x, const LinearWeight& w) {
  ASSIGN(View out, c.arena.take(DType::kF32, {x.shape.rows(), w.n}));
  TRY(c.ops.linear({.x = x, .w = &w, .out = out}, c.stream));
  return out;
}

// x may be a column slice of a wider matrix: its rows are strided.
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
