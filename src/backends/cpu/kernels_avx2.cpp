// AVX2 with FMA: BF16 weights are widened by a shift and multiplied in float32.
#include "backends/cpu/kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace trireme::cpu {
namespace {

constexpr Isa kIsa = Isa::kAvx2;
constexpr const char* kName = "avx2";
constexpr int kLanes = 8, kTransposeLanes = 8;
constexpr int kMaxRows = 4, kVecs = 2, kOneRowVecs = 4;  // 16 registers
constexpr i64 kPrefetch = 4096;                          // bytes

using VF = __m256;
using PackedX = float;

inline __m256i first(i64 n) {
  const int m = n >= 8 ? 8 : n <= 0 ? 0 : static_cast<int>(n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(m), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline VF vzero() { return _mm256_setzero_ps(); }
inline VF vset(float f) { return _mm256_set1_ps(f); }
inline VF vload(const float* p) { return _mm256_loadu_ps(p); }
inline VF vload_n(const float* p, i64 n) { return n >= 8 ? vload(p) : _mm256_maskload_ps(p, first(n)); }
inline void vstore_n(float* p, VF v, i64 n) {
  if (n >= 8)
    _mm256_storeu_ps(p, v);
  else
    _mm256_maskstore_ps(p, first(n), v);
}
inline VF vkeep_n(VF v, i64 n) { return _mm256_and_ps(v, _mm256_castsi256_ps(first(n))); }
inline VF vadd(VF a, VF b) { return _mm256_add_ps(a, b); }
inline VF vsub(VF a, VF b) { return _mm256_sub_ps(a, b); }
inline VF vmul(VF a, VF b) { return _mm256_mul_ps(a, b); }
inline VF vdiv(VF a, VF b) { return _mm256_div_ps(a, b); }
inline VF vmax(VF a, VF b) { return _mm256_max_ps(a, b); }
inline VF vmin(VF a, VF b) { return _mm256_min_ps(a, b); }
inline VF vfma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
inline VF vpow2(VF n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline VF vzero_below(VF x, VF limit, VF y) { return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), y); }
inline VF vis_nan(VF x) { return _mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q), vset(1.0f)); }
inline float vsum(VF v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline float vmax_lanes(VF v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline void vstore_bf16_n(u16* p, VF v, i64 n) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i bits = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  alignas(32) u32 lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), bits);
  for (int i = 0; i < 8 && i < n; ++i) p[i] = static_cast<u16>(lane[i]);
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
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static X broadcast(const char* x, i64 step) {
    const float* const p = reinterpret_cast<const float*>(x) + 2 * step;
    return {_mm256_set1_ps(p[0]), _mm256_set1_ps(p[1])};
  }
  static VF add(VF acc, W w, X x) { return vfma(w.odd, x.odd, vfma(w.even, x.even, acc)); }
};
using WideDot = Bf16Dot;  // takes float32 as it is
inline void store_wide_x(float* p, VF v) { vstore_n(p, v, kLanes); }
struct F32Dot {
  using W = VF;
  using X = VF;
  static constexpr int kStep = 1, kXBytes = 4;
  static W load(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static X broadcast(const char* x, i64 step) {
    return _mm256_set1_ps(reinterpret_cast<const float*>(x)[step]);
  }
  static VF add(VF acc, W w, X x) { return vfma(w, x, acc); }
};

// 8 x 8 elements of 32 bits, out rows 64 apart.
inline void transpose_tile(const u32* in, i64 stride, int rows, u32* out) {
  __m256i a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    a[i] = i < rows ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i * stride))
                    : _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j * kPanel),
                        _mm256_permute2x128_si256(a[j], a[4 + j], 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (4 + j) * kPanel),
                        _mm256_permute2x128_si256(a[j], a[4 + j], 0x31));
  }
}

#include "backends/cpu/kernels_body.h"

}  // namespace

const Kernels& avx2_kernels() { return kTable; }

}  // namespace trireme::cpu
#else
namespace trireme::cpu {
const Kernels& avx2_kernels() { return generic_kernels(); }
}  // namespace trireme::cpu
#endif
