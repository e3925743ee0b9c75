#include "rig.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>

#ifdef TRIREME_CUDA
#include "backends/cuda/cuda_backend.h"
#endif

namespace trireme::ops_test {
namespace {

constexpr i64 kGuard = 256;  // bytes behind every piece of memory that must stay as they are

std::unique_ptr<Backend> make([[maybe_unused]] const std::string& name) {
#ifdef TRIREME_CUDA
  if (name == "cuda") return cuda::make_cuda_backend().value();
#endif
  cpu::CpuOptions options;
  options.threads = 2;
  options.deterministic = true;  // another route for some products has tests of its own
  return cpu::make_cpu_backend(options).value();
}

u16 f16_bits(float v) {  // normal numbers and zero; rounds towards zero
  const u32 u = std::bit_cast<u32>(v);
  const i32 exponent = static_cast<i32>((u >> 23) & 255) - 127 + 15;
  if (exponent <= 0) return static_cast<u16>(u >> 16 & 0x8000);
  return static_cast<u16>((u >> 16 & 0x8000) | static_cast<u32>(exponent) << 10 | (u >> 13 & 0x3ff));
}

}  // namespace

std::vector<std::string> backends() {
  std::vector<std::string> names = {"cpu"};
#ifdef TRIREME_CUDA
  if (cuda::cuda_present()) names.push_back("cuda");
#endif
  return names;
}

u64 fresh_seed() {
  static const u64 seed = [] {
    const char* given = std::getenv("TRIREME_TEST_SEED");
    const u64 s = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    fmt::print("TRIREME_TEST_SEED={}\n", s);
    return s;
  }();
  return seed;
}

Host::Host(DType t, Shape s)
    : bytes(static_cast<std::size_t>(s.elements() * size_of(t)), '\xff'), dtype(t), shape(s) {}

void Host::set(i64 i, float v) {
  char* const at = bytes.data() + i * size_of(dtype);
  const auto put = [at](auto x) { std::memcpy(at, &x, sizeof x); };
  switch (dtype) {
    case DType::kF32:
      return put(v);
    case DType::kBF16:
      return put(BF16(v));
    case DType::kF16:
      return put(f16_bits(v));
    case DType::kF8E4M3:
      return put(float_to_f8e4m3(v));
    default:
      FAIL() << "no such test tensor";
  }
}

float Host::get(i64 i) const {
  const char* const at = bytes.data() + i * size_of(dtype);
  const auto read = [at](auto x) {
    std::memcpy(&x, at, sizeof x);
    return x;
  };
  switch (dtype) {
    case DType::kF32:
      return read(0.0f);
    case DType::kBF16:
      return static_cast<float>(read(BF16()));
    case DType::kF16:
      return f16_to_float(read(u16{}));
    case DType::kF8E4M3:
      return f8e4m3_to_float(read(u8{}));
    default:
      return kNaN;
  }
}

Host Host::as(DType t) const {
  if (t == dtype) return *this;
  Host out(t, shape);
  for (i64 i = 0; i < size(); ++i) out.set(i, get(i));
  return out;
}

Host random_host(Rng& rng, DType t, Shape s, double scale) {
  Host h(t, s);
  for (i64 i = 0; i < h.size(); ++i) h.set(i, static_cast<float>(rng.normal() * scale));
  return h;
}

double relative_error(const Host& a, const Host& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (i64 i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a.get(i)) - static_cast<double>(b.get(i)), 2);
    norm += std::pow(static_cast<double>(b.get(i)), 2);
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

Rig::Rig(std::unique_ptr<Backend> backend)
    : backend_(std::move(backend)), stream_(backend_->device().make_stream()) {}

void Rig::expect_ok(const Status& s, const char* what) {
  EXPECT_TRUE(s) << backend_->name() << ": " << what << ": " << (s ? "" : s.error().message);
}

void Rig::clear() {
  expect_ok(stream_->synchronize(), "synchronize");
  pieces_.clear();
}

void* Rig::take(i64 bytes, const void* from) {
  std::vector<char> all(static_cast<std::size_t>(bytes + kGuard), '\xff');
  if (from != nullptr && bytes > 0) std::memcpy(all.data(), from, static_cast<std::size_t>(bytes));
  pieces_.push_back({device().allocate(bytes + kGuard).value(), bytes});
  expect_ok(device().copy_in(pieces_.back().buffer.data(), all.data(), bytes + kGuard, *stream_), "copy_in");
  expect_ok(stream_->synchronize(), "synchronize");  // `all` goes away
  return pieces_.back().buffer.data();
}

View Rig::put(const Host& h, DType t, i64 stride) {
  const Host as = h.as(t);
  const i64 cols = h.shape.cols(), step = stride > 0 ? stride : cols, size = size_of(t);
  std::vector<char> rows(static_cast<std::size_t>(h.shape.rows() * step * size), '\xff');
  for (i64 r = 0; r < h.shape.rows(); ++r)
    std::memcpy(rows.data() + r * step * size, as.bytes.data() + r * cols * size,
                static_cast<std::size_t>(cols * size));
  return View(take(static_cast<i64>(rows.size()), rows.data()), t, h.shape, step);
}

View Rig::poison(DType t, Shape s, i64 stride) {
  const i64 step = stride > 0 ? stride : s.cols();
  return View(take(s.rows() * step * size_of(t), nullptr), t, s, step);
}

template <class T>
std::span<T> Rig::array(const std::vector<T>& v) {
  return {static_cast<T*>(take(static_cast<i64>(v.size() * sizeof(T)), v.data())), v.size()};
}

Out<i32> Rig::poison_i32(i64 n) {
  return {static_cast<i32*>(take(n * 4, nullptr)), static_cast<std::size_t>(n)};
}
Out<float> Rig::poison_f32(i64 n) {
  return {static_cast<float*>(take(n * 4, nullptr)), static_cast<std::size_t>(n)};
}

std::vector<char> Rig::bytes_of(const void* data, i64 bytes) {
  for (const Piece& p : pieces_) {
    if (p.buffer.data() != data) continue;
    EXPECT_LE(bytes, p.bytes);
    std::vector<char> all(static_cast<std::size_t>(p.bytes + kGuard));
    expect_ok(device().copy_out(all.data(), data, p.bytes + kGuard, *stream_), "copy_out");
    expect_ok(stream_->synchronize(), "synchronize");
    EXPECT_TRUE(std::all_of(all.end() - kGuard, all.end(), [](char c) { return c == '\xff'; }))
        << backend_->name() << " wrote behind a tensor";
    return all;
  }
  ADD_FAILURE() << "memory that no test put there";
  return std::vector<char>(static_cast<std::size_t>(bytes));
}

Host Rig::get(const View& v) {
  Host out(v.dtype, v.shape);
  const i64 cols = v.shape.cols(), size = size_of(v.dtype), rows = v.shape.rows();
  const std::vector<char> all = bytes_of(v.data, rows * v.row_stride * size);
  for (i64 r = 0; r < rows; ++r) {
    const char* const row = all.data() + r * v.row_stride * size;
    std::memcpy(out.bytes.data() + r * cols * size, row, static_cast<std::size_t>(cols * size));
    EXPECT_TRUE(std::all_of(row + cols * size, row + v.row_stride * size, [](char c) { return c == '\xff'; }))
        << backend_->name() << " wrote between the rows of a tensor";
  }
  return out;
}

std::vector<i32> Rig::get(Out<i32> v) {
  const auto all = bytes_of(v.data(), static_cast<i64>(v.size_bytes()));
  std::vector<i32> out(v.size());
  std::memcpy(out.data(), all.data(), v.size_bytes());
  return out;
}
std::vector<float> Rig::get(Out<float> v) {
  const auto all = bytes_of(v.data(), static_cast<i64>(v.size_bytes()));
  std::vector<float> out(v.size());
  std::memcpy(out.data(), all.data(), v.size_bytes());
  return out;
}

std::vector<char> Rig::get_bytes(const void* put, i64 bytes) {
  auto all = bytes_of(put, bytes);
  all.resize(static_cast<std::size_t>(bytes));
  return all;
}

Quantised Rig::poison_quantised(i64 rows, i64 k) {
  return {poison(DType::kF8E4M3, {rows, k}), poison(DType::kF32, {ceil_div(k, 128), quantised_rows(rows)})};
}

Host Rig::get(const Quantised& q) {
  const Host codes = get(q.codes), scale = get(q.scale);
  Host out(DType::kF32, codes.shape);
  const i64 k = codes.shape.cols(), padded = scale.shape.cols();
  for (i64 i = 0; i < out.size(); ++i) out.set(i, codes.get(i) * scale.get(i % k / 128 * padded + i / k));
  return out;
}

Quantised Rig::quantised(const View& x) {
  const Quantised q = poison_quantised(x.shape.rows(), x.shape.cols());
  RUN(*this, ops().quantise({.x = x, .q = q}, *stream_));
  return q;
}

template std::span<i32> Rig::array(const std::vector<i32>&);
template std::span<float> Rig::array(const std::vector<float>&);

OnEveryBackend::OnEveryBackend()
    : rng(fresh_seed()), tested(make(GetParam())), oracle(cpu::make_oracle_backend().value()) {}

std::vector<i32> OnEveryBackend::below(i64 n, i64 end) {
  std::vector<i32> v;
  for (i64 i = 0; i < n; ++i) v.push_back(static_cast<i32>(rng.below(static_cast<u64>(end))));
  return v;
}

}  // namespace trireme::ops_test
