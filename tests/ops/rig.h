// What the tests of the operations share: numbers on the host, backends to run them on, and comparisons.
//
// A test makes its inputs on the host, runs one body on the backend under test and on the oracle, and
// compares what comes back. Inputs are rounded to the tested backend's activation type first, so that both
// see the same numbers. Outputs start as NaN, and memory that nobody should touch is looked at afterwards.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "base/rng.h"
#include "ops/ops.h"

namespace trireme::ops_test {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A new seed each run, printed so that a failure can be repeated with TRIREME_TEST_SEED in the environment.
u64 fresh_seed();

// A dense tensor on the host, of any element type. New ones hold NaN.
struct Host {
  std::vector<char> bytes;
  DType dtype = DType::kF32;
  Shape shape;

  Host() = default;
  Host(DType t, Shape s);
  i64 size() const { return bytes.empty() ? 0 : shape.elements(); }
  void set(i64 i, float v);
  float get(i64 i) const;
  Host as(DType t) const;  // every value rounded to t
  ConstView view() const { return ConstView(bytes.data(), dtype, shape); }
};

// Normal numbers, rounded to `t`.
Host random_host(Rng& rng, DType t, Shape s, double scale = 1);

// ||a - b|| / ||b||; infinite if sizes differ, NaN if anything is.
double relative_error(const Host& a, const Host& b);

// A backend with a stream, and the device memory that a test put its tensors in. Views and spans live until
// clear().
class Rig {
 public:
  explicit Rig(std::unique_ptr<Backend> backend);
  ~Rig() { clear(); }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  Backend& backend() { return *backend_; }
  Device& device() { return backend_->device(); }
  const Ops& ops() const { return backend_->ops(); }
  Stream& stream() { return *stream_; }
  DType act() const { return backend_->act(); }

  // A copy of h's values as type t. With a stride, rows are that far apart and what lies between is NaN.
  View put(const Host& h, DType t, i64 stride = 0);
  View put(const Host& h) { return put(h, h.dtype); }
  View put_act(const Host& h, i64 stride = 0) { return put(h, act(), stride); }
  In<i32> put(const std::vector<i32>& v) { return array(v); }
  In<float> put(const std::vector<float>& v) { return array(v); }
  // Memory of all-ones bytes: NaN in every type, -1 as an integer.
  View poison(DType t, Shape s, i64 stride = 0);
  View poison_act(Shape s, i64 stride = 0) { return poison(act(), s, stride); }
  Out<i32> poison_i32(i64 n);
  Out<float> poison_f32(i64 n);

  // What a view holds now. Fails the test if bytes behind its memory have changed, or between its rows.
  Host get(const View& v);
  std::vector<i32> get(Out<i32> v);
  std::vector<float> get(Out<float> v);

  void* put_bytes(const std::vector<char>& bytes) {
    return take(static_cast<i64>(bytes.size()), bytes.data());
  }
  std::vector<char> get_bytes(const void* put, i64 bytes);

  // Room for quantised rows, and the values they stand for.
  Quantised poison_quantised(i64 rows, i64 k);
  Host get(const Quantised& q);
  // x as Ops::quantise makes it. REQUIRES: the backend has it.
  Quantised quantised(const View& x);

  void expect_ok(const Status& s, const char* what);
  void clear();  // waits, then forgets all memory

 private:
  struct Piece {
    Buffer buffer;
    i64 bytes = 0;
  };
  template <class T>
  std::span<T> array(const std::vector<T>& v);
  void* take(i64 bytes, const void* from);
  std::vector<char> bytes_of(const void* data, i64 bytes);

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::vector<Piece> pieces_;
};

#define RUN(rig, expr) (rig).expect_ok((expr), #expr)

// The names of the backends that this build and this machine have: what the tests are instantiated for.
std::vector<std::string> backends();
inline std::string backend_name(const testing::TestParamInfo<std::string>& info) { return info.param; }

// A backend under test and the oracle.
class OnEveryBackend : public testing::TestWithParam<std::string> {
 protected:
  OnEveryBackend();
  // The tolerance for outputs of the tested backend's activation type whose inputs were exact.
  double rounding() const { return tested.act() == DType::kF32 ? 3e-6 : 4e-3; }
  // For products and attention: inputs of the products may be rounded to BF16.
  static constexpr double kProduct = 8e-3;
  // For values that went through e4m3 with a scale for each 128: three bits of mantissa.
  static constexpr double kFp8 = 0.04;
  Host act(Shape s, double scale = 1) { return random_host(rng, tested.act(), s, scale); }
  std::vector<i32> below(i64 n, i64 end);  // n random integers of [0, end)

  // body(rig), which gives a Host, on both: by how much the tested backend is off. Memory is forgotten after.
  template <class Body>
  double off(Body body) {
    const Host a = body(tested), b = body(oracle);
    tested.clear();
    oracle.clear();
    return relative_error(a, b);
  }

  Rng rng;
  Rig tested, oracle;
};

// Backends may leave a fused form out.
#define SKIP_WITHOUT(rig, op) \
  if ((rig).ops().op == nullptr) GTEST_SKIP() << "this backend has no " #op

}  // namespace trireme::ops_test
