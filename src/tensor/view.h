// A view of a dense, row-major tensor of up to four dimensions. Owns nothing; the memory is on the
// device of whoever made it. Rows (all but the last dimension, flattened) may be padded: row r starts at
// data + r * row_stride elements.
#pragma once
#include <array>
#include <initializer_list>
#include <string>

#include "base/check.h"
#include "tensor/dtype.h"

namespace trireme {

struct Shape {
  int rank = 0;
  std::array<i64, 4> dim{};

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<i64> dims) {
    for (const i64 d : dims) dim[rank++] = d;
  }
  constexpr i64 operator[](int i) const { return dim[i < 0 ? rank + i : i]; }
  constexpr i64 elements() const {
    i64 n = 1;
    for (int i = 0; i < rank; ++i) n *= dim[i];
    return n;
  }
  constexpr i64 cols() const { return rank == 0 ? 1 : dim[rank - 1]; }
  constexpr i64 rows() const { return cols() == 0 ? 0 : elements() / cols(); }
  friend constexpr bool operator==(const Shape& a, const Shape& b) {
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; ++i)
      if (a.dim[i] != b.dim[i]) return false;
    return true;
  }
};
std::string to_string(const Shape& shape);

struct ConstView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  i64 row_stride = 0;  // in elements

  ConstView() = default;
  ConstView(const void* d, DType t, Shape s, i64 stride = 0)
      : data(d), dtype(t), shape(s), row_stride(stride ? stride : s.cols()) {}
  explicit operator bool() const { return data != nullptr; }
  i64 bytes() const { return shape.elements() * size_of(dtype); }
  bool dense() const { return row_stride == shape.cols(); }
  const void* row(i64 r) const { return static_cast<const char*>(data) + r * row_stride * size_of(dtype); }
  template <class T>
  const T* as() const {
    CHECK(sizeof(T) == static_cast<std::size_t>(size_of(dtype)), "{} read as another size", to_string(dtype));
    return static_cast<const T*>(data);
  }
};

struct View : ConstView {
  View() = default;
  View(void* d, DType t, Shape s, i64 stride = 0) : ConstView(d, t, s, stride) {}
  void* mutable_data() const { return const_cast<void*>(data); }
  void* mutable_row(i64 r) const { return const_cast<void*>(row(r)); }
  template <class T>
  T* mut() const {
    return const_cast<T*>(as<T>());
  }
  // Rows [begin, begin + n) of the flattened matrix.
  View rows(i64 begin, i64 n) const {
    return View(mutable_row(begin), dtype, Shape{n, shape.cols()}, row_stride);
  }
  // The same memory under another shape. REQUIRES: dense, the same number of elements.
  View reshaped(Shape s) const {
    CHECK(dense() && s.elements() == shape.elements());
    return View(mutable_data(), dtype, s);
  }
};

}  // namespace trireme
