#include <cstring>

#include "backends/cpu/args_check.h"
#include "backends/cpu/cpu_device.h"
#include "backends/cpu/oracle.h"
#include "backends/cpu/oracle_math.h"

namespace trireme::cpu::oracle {
namespace {

// Row-major [n, k]: BF16 as it was stored, float32 for everything else.
struct Plain {
  DType dtype = DType::kF32;
  i64 n = 0, k = 0;
  Buffer data;
  std::vector<float> bias;
  template <class T>
  const T* row(i64 r) const {
    return static_cast<const T*>(data.data()) + r * k;
  }
};

float stored(const ConstView& v, i64 row, i64 col) {
  const auto* const p = static_cast<const char*>(v.row(row)) + col * size_of(v.dtype);
  u16 half = 0;
  float full = 0;
  switch (v.dtype) {
    case DType::kF8E4M3:
      return f8e4m3_to_float(static_cast<u8>(*p));
    case DType::kF16:
      std::memcpy(&half, p, sizeof half);
      return f16_to_float(half);
    case DType::kBF16:
      std::memcpy(&half, p, sizeof half);
      return std::bit_cast<float>(static_cast<u32>(half) << 16);
    default:
      std::memcpy(&full, p, sizeof full);
      return full;
  }
}

float* row(const View& v, i64 r) { return static_cast<float*>(v.mutable_row(r)); }
const float* row(const ConstView& v, i64 r) { return static_cast<const float*>(v.row(r)); }

void multiply(CpuStream& s, const LinearWeight& weight, const float* x, i64 x_stride, i64 rows, float* out,
              i64 out_stride) {
  const Plain& w = *static_cast<const Plain*>(weight.packed.get());
  s.pool.parallel_for(
      w.n, std::max<i64>(1, (64 << 10) / (w.k * std::max<i64>(1, rows))), [&](i64 begin, i64 end, int) {
        for (i64 c = begin; c < end; ++c) {
          for (i64 r = 0; r < rows; ++r) {
            const float* const row = x + r * x_stride;
            const float y =
                w.dtype == DType::kBF16 ? dot(row, w.row<BF16>(c), w.k) : dot(row, w.row<float>(c), w.k);
            out[r * out_stride + c] = y + (w.bias.empty() ? 0.0f : w.bias[static_cast<std::size_t>(c)]);
          }
        }
      });
}

}  // namespace

i64 prepared_bytes(i64 n, i64 k, DType stored) { return n * k * (stored == DType::kBF16 ? 2 : 4); }

Status prepare(Device& device, LinearWeight& w) {
  TRY(check_stored(w));
  auto plain = std::make_shared<Plain>();
  plain->n = w.n;
  plain->k = w.k;
  plain->dtype = w.weight.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  ASSIGN(plain->data, device.allocate(w.n * w.k * size_of(plain->dtype)));
  for (i64 r = 0; r < w.n; ++r) {
    if (w.weight.dtype == plain->dtype) {
      const i64 bytes = w.k * size_of(plain->dtype);
      std::memcpy(static_cast<char*>(plain->data.data()) + r * bytes, w.weight.row(r),
                  static_cast<std::size_t>(bytes));
      continue;
    }
    float* const out = static_cast<float*>(plain->data.data()) + r * w.k;
    for (i64 c = 0; c < w.k; ++c) {
      const float scale =
          w.weight.dtype == DType::kF8E4M3 ? static_cast<const float*>(w.scale.row(r / 128))[c / 128] : 1.0f;
      out[c] = stored(w.weight, r, c) * scale;
    }
  }
  for (i64 i = 0; w.bias && i < w.n; ++i) {
    plain->bias.push_back(stored(ConstView(w.bias.data, w.bias.dtype, Shape{1, w.n}), 0, i));
  }
  w.stored_bytes = plain->data.bytes();
  w.packed = std::move(plain);
  return {};
}

Status linear(const LinearArgs& a, Stream& stream) {
  TRY(check(a));
  const i64 rows = a.x.shape.rows(), n = a.w->n;
  if (!a.residual) {
    multiply(cpu(stream), *a.w, a.x.as<float>(), a.x.row_stride, rows, a.out.mut<float>(), a.out.row_stride);
    return {};
  }
  std::vector<float> product(static_cast<std::size_t>(rows * n));  // the residual may be what out holds
  multiply(cpu(stream), *a.w, a.x.as<float>(), a.x.row_stride, rows, product.data(), n);
  for (i64 i = 0; i < rows * n; ++i)
    row(a.out, i / n)[i % n] = row(a.residual, i / n)[i % n] + product[static_cast<std::size_t>(i)];
  return {};
}

Status head_linear(const HeadLinearArgs& a, Stream& stream) {
  TRY(check(a));
  const i64 heads = a.w->count();
  for (i64 h = 0; h < heads; ++h) {
    multiply(cpu(stream), a.w->each[static_cast<std::size_t>(h)], static_cast<const float*>(a.x.row(h)),
             heads * a.x.row_stride, a.x.shape[0], static_cast<float*>(a.out.mutable_row(h)),
             heads * a.out.row_stride);
  }
  return {};
}

Status grouped_linear(const GroupedLinearArgs& a, Stream& stream) {
  TRY(check(a));
  i64 begin = 0;
  for (std::size_t e = 0; e < a.w->each.size(); begin = a.expert_end[e], ++e) {
    if (a.expert_end[e] == begin) continue;
    multiply(cpu(stream), a.w->each[e], static_cast<const float*>(a.x.row(begin)), a.x.row_stride,
             a.expert_end[e] - begin, static_cast<float*>(a.out.mutable_row(begin)), a.out.row_stride);
  }
  for (i64 r = 0; r < begin && !a.row_weight.empty(); ++r)
    for (i64 i = 0; i < a.w->n; ++i) row(a.out, r)[i] *= a.row_weight[static_cast<std::size_t>(r)];
  return {};
}

}  // namespace trireme::cpu::oracle
