// Any CPU: vectors of four, in the compiler's own vector type.
#include "backends/cpu/kernels.h"

namespace trireme::cpu {
namespace {

constexpr Isa kIsa = Isa::kGeneric;
constexpr const char* kName = "generic";
constexpr int kLanes = 4, kTransposeLanes = 4;
constexpr int kMaxRows = 2, kVecs = 4, kOneRowVecs = 4;
constexpr i64 kPrefetch = 1024;  // bytes

using VF = float __attribute__((vector_size(16)));
using VI = int __attribute__((vector_size(16)));
using PackedX = float;

inline VF vset(float f) { return VF{f, f, f, f}; }
inline VF vzero() { return vset(0); }
inline VF vload(const float* p) { return VF{p[0], p[1], p[2], p[3]}; }
inline VF vload_n(const float* p, i64 n) {
  if (n >= kLanes) return vload(p);
  VF v = vzero();
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
inline void vstore_n(float* p, VF v, i64 n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = v[i];
}
inline VF vkeep_n(VF v, i64 n) {
  for (int i = 0; i < kLanes; ++i)
    if (i >= n) v[i] = 0;
  return v;
}
inline VF vadd(VF a, VF b) { return a + b; }
inline VF vsub(VF a, VF b) { return a - b; }
inline VF vmul(VF a, VF b) { return a * b; }
inline VF vdiv(VF a, VF b) { return a / b; }
inline VF vmax(VF a, VF b) { return a > b ? a : b; }
inline VF vmin(VF a, VF b) { return a < b ? a : b; }
inline VF vfma(VF a, VF b, VF c) { return a * b + c; }
inline VF vpow2(VF n) {
  const VI bits = (__builtin_convertvector(n, VI) + 127) << 23;
  return reinterpret_cast<VF>(bits);
}
inline VF vzero_below(VF x, VF limit, VF y) { return x < limit ? vzero() : y; }
inline VF vis_nan(VF x) { return x == x ? vzero() : vset(1.0f); }
inline float vsum(VF v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float vmax_lanes(VF v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
inline void vstore_bf16_n(u16* p, VF v, i64 n) {
  for (int i = 0; i < kLanes && i < n; ++i) {
    const u32 u = __builtin_bit_cast(u32, v[i]);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    p[i] = static_cast<u16>((nan ? u | 0x400000u : u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
}
inline VF store_x(float* p, VF v, i64 n) {
  vstore_n(p, v, n);
  return v;
}

struct Bf16Dot {
  struct W {
    VF even, odd;
  };
  using X = W;
  static constexpr int kStep = 2, kXBytes = 4;
  static W load(const char* p) {
    const int* const w = reinterpret_cast<const int*>(p);
    const VI bits = {w[0], w[1], w[2], w[3]};
    return {reinterpret_cast<VF>(bits << 16), reinterpret_cast<VF>(bits & static_cast<int>(0xffff0000u))};
  }
  static X broadcast(const char* x, i64 step) {
    const float* const p = reinterpret_cast<const float*>(x) + 2 * step;
    return {vset(p[0]), vset(p[1])};
  }
  static VF add(VF acc, W w, X x) { return vfma(w.odd, x.odd, vfma(w.even, x.even, acc)); }
};
using WideDot = Bf16Dot;  // takes float32 as it is
inline void store_wide_x(float* p, VF v) { vstore_n(p, v, kLanes); }
struct F32Dot {
  using W = VF;
  using X = VF;
  static constexpr int kStep = 1, kXBytes = 4;
  static W load(const char* p) { return vload(reinterpret_cast<const float*>(p)); }
  static X broadcast(const char* x, i64 step) { return vset(reinterpret_cast<const float*>(x)[step]); }
  static VF add(VF acc, W w, X x) { return vfma(w, x, acc); }
};

inline void transpose_tile(const u32* in, i64 stride, int rows, u32* out) {
  for (int c = 0; c < kTransposeLanes; ++c)
    for (int r = 0; r < kTransposeLanes; ++r) out[c * kPanel + r] = r < rows ? in[r * stride + c] : 0;
}

#include "backends/cpu/kernels_body.h"

}  // namespace

const Kernels& generic_kernels() { return kTable; }

}  // namespace trireme::cpu
