// AVX-512 with BF16 dot products: Intel from Cooper Lake, AMD from Zen 4.
#include "backends/cpu/kernels.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

namespace trireme::cpu {
namespace {

constexpr Isa kIsa = Isa::kAvx512Bf16;
constexpr const char* kName = "avx512_bf16";
constexpr int kLanes = 16, kTransposeLanes = 16;
constexpr int kMaxRows = 6, kVecs = 4, kOneRowVecs = 4;  // 24 of 32 registers accumulate
constexpr i64 kPrefetch = 4096;                          // bytes

using VF = __m512;
using PackedX = u16;

inline __mmask16 first(i64 n) {
  return n >= 16 ? __mmask16(0xffff) : n <= 0 ? __mmask16(0) : __mmask16((1u << n) - 1);
}
inline VF vzero() { return _mm512_setzero_ps(); }
inline VF vset(float f) { return _mm512_set1_ps(f); }
inline VF vload(const float* p) { return _mm512_loadu_ps(p); }
inline VF vload_n(const float* p, i64 n) { return n >= 16 ? vload(p) : _mm512_maskz_loadu_ps(first(n), p); }
inline void vstore_n(float* p, VF v, i64 n) {
  if (n >= 16)
    _mm512_storeu_ps(p, v);
  else
    _mm512_mask_storeu_ps(p, first(n), v);
}
inline VF vkeep_n(VF v, i64 n) { return _mm512_maskz_mov_ps(first(n), v); }
inline VF vadd(VF a, VF b) { return _mm512_add_ps(a, b); }
inline VF vsub(VF a, VF b) { return _mm512_sub_ps(a, b); }
inline VF vmul(VF a, VF b) { return _mm512_mul_ps(a, b); }
inline VF vdiv(VF a, VF b) { return _mm512_div_ps(a, b); }
inline VF vmax(VF a, VF b) { return _mm512_max_ps(a, b); }
inline VF vmin(VF a, VF b) { return _mm512_min_ps(a, b); }
inline VF vfma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
inline VF vpow2(VF n) { return _mm512_scalef_ps(vset(1.0f), n); }
inline VF vzero_below(VF x, VF limit, VF y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
}
inline VF vis_nan(VF x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), vset(1.0f)); }
inline float vsum(VF v) { return _mm512_reduce_add_ps(v); }
inline float vmax_lanes(VF v) { return _mm512_reduce_max_ps(v); }
inline void vstore_bf16_n(u16* p, VF v, i64 n) {
  _mm256_mask_storeu_epi16(p, first(n), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}
// Stores as packed x and returns what was stored.
inline VF store_x(u16* p, VF v, i64 n) {
  const __m256i b = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
  _mm256_mask_storeu_epi16(p, first(n), b);
  return reinterpret_cast<VF>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

inline VF store_x(float* p, VF v, i64 n) {
  vstore_n(p, v, n);
  return v;
}

struct Bf16Dot {
  using W = __m512bh;
  using X = __m512bh;
  static constexpr int kStep = 2, kXBytes = 2;
  static W load(const char* p) { return reinterpret_cast<W>(_mm512_loadu_si512(p)); }
  static X broadcast(const char* x, i64 step) {
    return reinterpret_cast<X>(_mm512_set1_epi32(reinterpret_cast<const int*>(x)[step]));
  }
  static VF add(VF acc, W w, X x) { return _mm512_dpbf16_ps(acc, w, x); }
};
// x is the sum of two BF16, which lie side by side for each pair of k: high, high, low, low.
struct WideDot {
  using W = __m512bh;
  struct X {
    __m512bh high, low;
  };
  static constexpr int kStep = 2, kXBytes = 4;
  static W load(const char* p) { return Bf16Dot::load(p); }
  static X broadcast(const char* x, i64 step) {
    return {Bf16Dot::broadcast(x, 2 * step), Bf16Dot::broadcast(x, 2 * step + 1)};
  }
  static VF add(VF acc, W w, X x) { return _mm512_dpbf16_ps(_mm512_dpbf16_ps(acc, w, x.low), w, x.high); }
};
inline void store_wide_x(float* p, VF v) {
  const __m256i high = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
  const VF rest = _mm512_sub_ps(v, reinterpret_cast<VF>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
  const __m256i low = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(rest));
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(high), low, 1);
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, both));
}
struct F32Dot {
  using W = VF;
  using X = VF;
  static constexpr int kStep = 1, kXBytes = 4;
  static W load(const char* p) { return _mm512_loadu_ps(p); }
  static X broadcast(const char* x, i64 step) {
    return _mm512_set1_ps(reinterpret_cast<const float*>(x)[step]);
  }
  static VF add(VF acc, W w, X x) { return _mm512_fmadd_ps(w, x, acc); }
};

// 16 x 16 elements of 32 bits, out rows 64 apart.
inline void transpose_tile(const u32* in, i64 stride, int rows, u32* out) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = i < rows ? _mm512_loadu_si512(in + i * stride) : _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i even = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    const __m512i even2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i odd2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    _mm512_storeu_si512(out + (0 + j) * kPanel, _mm512_shuffle_i32x4(even, even2, 0x88));
    _mm512_storeu_si512(out + (4 + j) * kPanel, _mm512_shuffle_i32x4(odd, odd2, 0x88));
    _mm512_storeu_si512(out + (8 + j) * kPanel, _mm512_shuffle_i32x4(even, even2, 0xdd));
    _mm512_storeu_si512(out + (12 + j) * kPanel, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
  }
}

#include "backends/cpu/kernels_body.h"

}  // namespace

const Kernels& avx512_bf16_kernels() { return kTable; }

}  // namespace trireme::cpu
#else
namespace trireme::cpu {
const Kernels& avx512_bf16_kernels() { return generic_kernels(); }
}  // namespace trireme::cpu
#endif
