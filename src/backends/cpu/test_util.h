// What the tests of this room share: backends by instruction set, tensors of random numbers, comparisons.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_device.h"
#include "base/rng.h"

namespace trireme::cpu {

inline constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

// A new seed each run, printed so that a failure can be repeated with TRIREME_TEST_SEED in the environment.
inline u64 fresh_seed() {
  static const u64 seed = [] {
    const char* given = std::getenv("TRIREME_TEST_SEED");
    const u64 s = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    fmt::print("TRIREME_TEST_SEED={}\n", s);
    return s;
  }();
  return seed;
}

// A tensor that owns its memory. Outputs start as NaN, so that what is not written shows.
struct Tensor {
  std::vector<char> bytes;
  DType dtype = DType::kF32;
  Shape shape;

  Tensor() = default;
  Tensor(DType t, Shape s)
      : bytes(static_cast<std::size_t>(s.elements() * size_of(t) + 64)), dtype(t), shape(s) {
    for (i64 i = 0; i < s.elements(); ++i) set(i, kPoison);
  }
  View view() { return View(bytes.data(), dtype, shape); }
  View view(Shape s) { return View(bytes.data(), dtype, s); }
  float* f32() { return reinterpret_cast<float*>(bytes.data()); }
  void set(i64 i, float v) {
    switch (dtype) {
      case DType::kF32:
        reinterpret_cast<float*>(bytes.data())[i] = v;
        break;
      case DType::kBF16:
        reinterpret_cast<BF16*>(bytes.data())[i] = BF16(v);
        break;
      case DType::kF8E4M3:
        reinterpret_cast<u8*>(bytes.data())[i] = float_to_f8e4m3(v);
        break;
      default:
        FAIL() << "no such test tensor";
    }
  }
  float get(i64 i) const {
    switch (dtype) {
      case DType::kF32:
        return reinterpret_cast<const float*>(bytes.data())[i];
      case DType::kBF16:
        return static_cast<float>(reinterpret_cast<const BF16*>(bytes.data())[i]);
      case DType::kF8E4M3:
        return f8e4m3_to_float(static_cast<u8>(bytes[static_cast<std::size_t>(i)]));
      case DType::kF16:
        return f16_to_float(reinterpret_cast<const u16*>(bytes.data())[i]);
      default:
        return kPoison;
    }
  }
  std::vector<float> values() const {
    std::vector<float> v;
    for (i64 i = 0; i < shape.elements(); ++i) v.push_back(get(i));
    return v;
  }
};

inline Tensor random_tensor(Rng& rng, DType t, Shape s, double scale = 1) {
  Tensor out(t, s);
  for (i64 i = 0; i < s.elements(); ++i) out.set(i, static_cast<float>(rng.normal() * scale));
  return out;
}

// |a - b| / |b|; NaN if anything is.
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

// A backend with a stream of its own.
struct Runner {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;

  static Runner oracle() { return Runner(make_oracle_backend().value()); }
  static Runner fast(Isa isa, int threads = 2) {
    CpuOptions o;
    o.threads = threads;
    o.isa = isa;
    o.deterministic = true;  // oneDNN's route has a test of its own
    return Runner(make_cpu_backend(o).value());
  }
  explicit Runner(std::unique_ptr<Backend> b)
      : backend(std::move(b)), stream(backend->device().make_stream()) {}
  const Ops& ops() const { return backend->ops(); }

  LinearWeight prepared(Tensor& w, Tensor* scale = nullptr, Tensor* bias = nullptr, bool precise = false) {
    LinearWeight out;
    out.n = w.shape[0];
    out.k = w.shape[1];
    out.weight = w.view();
    out.precise = precise;
    if (scale != nullptr) out.scale = scale->view();
    if (bias != nullptr) out.bias = bias->view();
    const Status s = ops().prepare(backend->device(), out);
    EXPECT_TRUE(s) << (s ? "" : s.error().message);
    EXPECT_EQ(out.stored_bytes, backend->prepared_bytes(out.n, out.k, w.dtype));
    return out;
  }
};

inline std::vector<Isa> isas() {
  std::vector<Isa> out;
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512Bf16})
    if (has_isa(isa)) out.push_back(isa);
  return out;
}
inline std::string isa_name(const testing::TestParamInfo<Isa>& info) { return kernels_for(info.param).name; }

#define EXPECT_OK(expr)                                               \
  do {                                                                \
    const Status status_ = (expr);                                    \
    EXPECT_TRUE(status_) << (status_ ? "" : status_.error().message); \
  } while (false)

// BF16 carries 8 bits: what a product of rounded inputs may differ by, relative to the whole.
inline double tolerance(bool bf16) { return bf16 ? 6e-3 : 2e-6; }

}  // namespace trireme::cpu
