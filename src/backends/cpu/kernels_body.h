// The source of every kernel table; see kernels.h. Included once by each kernels_<isa>.cpp, inside its
// anonymous namespace and after its vector type (VF, kLanes, v*) and its dot products (Bf16Dot, F32Dot).
// Nothing here may call an inline function of the standard library: the linker could keep the copy compiled
// for the wider machine.

inline VF vexp(VF x) {
  // e^x = 2^n e^r, |r| <= ln(2)/2, by Taylor's series to r^7 (below half an ulp); 0 below e^-87.
  const VF limit = vset(-87.0f);
  const VF c = vmin(vmax(x, limit), vset(88.0f));
  const VF magic = vset(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const VF n = vsub(vadd(vmul(c, vset(1.44269504f)), magic), magic);
  const VF r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), c));
  VF p = vset(1.0f / 5040);
  p = vfma(p, r, vset(1.0f / 720));
  p = vfma(p, r, vset(1.0f / 120));
  p = vfma(p, r, vset(1.0f / 24));
  p = vfma(p, r, vset(1.0f / 6));
  p = vfma(p, r, vset(0.5f));
  p = vfma(p, r, vset(1.0f));
  p = vfma(p, r, vset(1.0f));
  return vzero_below(x, limit, vmul(p, vpow2(n)));
}

template <class Dot, int kRows, int kVecs>
inline void tile(const PanelArgs& a, i64 row, int vec) {
  VF acc[kRows][kVecs];
  const int left = a.columns - vec * kLanes;
  const char* x[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    x[r] = static_cast<const char*>(a.x) + (row + r) * a.x_stride * Dot::kXBytes;
    float* const out = a.out + (row + r) * a.out_stride + vec * kLanes;
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v)
      acc[r][v] = a.accumulate && a.scale == 0 ? vload_n(out + v * kLanes, left - v * kLanes) : vzero();
  }
  const i64 steps = a.k / Dot::kStep;
  const char* w = static_cast<const char*>(a.panel) + vec * kLanes * 4;
  for (i64 s = 0; s < steps; ++s, w += kPanel * 4) {
    // One row has nothing to do while it waits for memory: fetch well ahead of it.
    if constexpr (kRows <= 2) {
#pragma GCC unroll 16
      for (int line = 0; line < kVecs * kLanes * 4; line += 64) __builtin_prefetch(w + kPrefetch + line);
    }
    typename Dot::W wv[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) wv[v] = Dot::load(w + v * kLanes * 4);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename Dot::X xv = Dot::broadcast(x[r], s);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) acc[r][v] = Dot::add(acc[r][v], wv[v], xv);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float* const out = a.out + (row + r) * a.out_stride + vec * kLanes;
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      const int n = left - v * kLanes;
      VF y = acc[r][v];
      if (a.scale != 0) y = vfma(y, vset(a.scale), a.accumulate ? vload_n(out + v * kLanes, n) : vzero());
      if (a.bias != nullptr) y = vadd(y, vload_n(a.bias + (vec + v) * kLanes, n));
      vstore_n(out + v * kLanes, y, n);
    }
  }
}

template <class Dot, int kRows, int kVecs>
inline void row_tile(const PanelArgs& a, i64 row, int vecs) {
  int vec = 0;
  for (; vec + kVecs <= vecs; vec += kVecs) tile<Dot, kRows, kVecs>(a, row, vec);
  for (; vec < vecs; ++vec) tile<Dot, kRows, 1>(a, row, vec);
}

template <class Dot>
void gemm(const PanelArgs& a) {
  const int vecs = (a.columns + kLanes - 1) / kLanes;
  const i64 tiles = (a.m + kMaxRows - 1) / kMaxRows;
  for (i64 t = 0; t < tiles; ++t) {
    const i64 row = a.m * t / tiles;  // tiles of nearly the same height
    switch (a.m * (t + 1) / tiles - row) {
      case 1:
        row_tile<Dot, 1, kOneRowVecs>(a, row, vecs);
        break;
      case 2:
        row_tile<Dot, 2, kVecs>(a, row, vecs);
        break;
      case 3:
        if constexpr (kMaxRows >= 3) row_tile<Dot, 3, kVecs>(a, row, vecs);
        break;
      case 4:
        if constexpr (kMaxRows >= 4) row_tile<Dot, 4, kVecs>(a, row, vecs);
        break;
      case 5:
        if constexpr (kMaxRows >= 5) row_tile<Dot, 5, kVecs>(a, row, vecs);
        break;
      default:
        if constexpr (kMaxRows >= 6) row_tile<Dot, 6, kVecs>(a, row, vecs);
        break;
    }
  }
}

void pack_x(const float* x, i64 k, float scale, i64 padded_k, void* out) {
  auto* const to = static_cast<PackedX*>(out);
  const VF s = vset(scale);
  for (i64 i = 0; i < padded_k; i += kLanes) {
    const VF v = i < k ? vmul(vload_n(x + i, k - i), s) : vzero();
    store_x(to + i, v, padded_k - i);
  }
}

// REQUIRES: padded_k a multiple of kLanes.
void pack_wide_x(const float* x, i64 k, float scale, i64 padded_k, void* out) {
  auto* const to = static_cast<float*>(out);
  const VF s = vset(scale);
  for (i64 i = 0; i < padded_k; i += kLanes)
    store_wide_x(to + i, i < k ? vmul(vload_n(x + i, k - i), s) : vzero());
}

void transpose(const u32* in, i64 stride, int tokens, i64 cols, u32* out) {
  const i64 whole = cols / kTransposeLanes * kTransposeLanes;
  for (int t = 0; t < kPanel; t += kTransposeLanes) {
    for (i64 c = 0; c < whole; c += kTransposeLanes)
      transpose_tile(in + t * stride + c, stride, tokens - t, out + c * kPanel + t);
    for (i64 c = whole; c < cols; ++c)
      for (int i = t; i < t + kTransposeLanes; ++i) out[c * kPanel + i] = i < tokens ? in[i * stride + c] : 0;
  }
}

void pack_values(const u16* in, i64 stride, int tokens, i64 cols, u16* out) {
  auto* to = reinterpret_cast<u32*>(out);
  for (i64 panel = 0; panel < cols; panel += kPanel) {
    const i64 width = cols - panel < kPanel ? cols - panel : kPanel;
    for (int t = 0; t < kPanel; t += 2, to += kPanel) {
      const u16* const a = in + t * stride + panel;
      const u16* const b = a + stride;
      if (t + 1 < tokens) {
        for (i64 c = 0; c < width; ++c) to[c] = a[c] | static_cast<u32>(b[c]) << 16;
      } else {
        for (i64 c = 0; c < width; ++c) to[c] = t < tokens ? a[c] : 0;
      }
      for (i64 c = width; c < kPanel; ++c) to[c] = 0;
    }
  }
}

// s[i, i + kLanes) with -infinity outside [begin, end).
inline VF visible(const float* s, i64 i, i64 begin, i64 end) {
  if (i >= begin && i + kLanes <= end) return vload(s + i);
  float v[kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    v[lane] = i + lane >= begin && i + lane < end ? s[i + lane] : -__builtin_inff();
  return vload(v);
}

template <class T>
void softmax(const float* s, i64 n, i64 begin, i64 end, float scale, void* weights, float* m, float* sum) {
  auto* const to = static_cast<T*>(weights);
  VF top = vset(-__builtin_inff());
  for (i64 i = 0; i < n; i += kLanes) top = vmax(top, visible(s, i, begin, end));
  *m = vmax_lanes(top) * scale;
  *sum = 0;
  if (begin >= end) {
    *m = -__builtin_inff();
    for (i64 i = 0; i < n; i += kLanes) store_x(to + i, vzero(), n - i);
    return;
  }
  const VF a = vset(scale), b = vset(-*m);
  VF total = vzero();
  for (i64 i = 0; i < n; i += kLanes) {
    const VF p = vexp(vfma(visible(s, i, begin, end), a, b));
    total = vadd(total, store_x(to + i, p, n - i));  // of what the weights are rounded to
  }
  *sum = vsum(total);
}

void scale_add(float* out, float a, const float* x, float b, i64 n) {
  const VF va = vset(a), vb = vset(b);
  for (i64 i = 0; i < n; i += kLanes)
    vstore_n(out + i, vfma(vload_n(x + i, n - i), vb, vmul(vload_n(out + i, n - i), va)), n - i);
}

void rms_norm(const float* x, const float* weight, float eps, i64 n, float* out) {
  VF squares = vzero();
  for (i64 i = 0; i < n; i += kLanes) {
    const VF v = vload_n(x + i, n - i);
    squares = vfma(v, v, squares);
  }
  const VF scale = vset(1.0f / __builtin_sqrtf(vsum(squares) / static_cast<float>(n) + eps));
  for (i64 i = 0; i < n; i += kLanes)
    vstore_n(out + i, vmul(vmul(vload_n(x + i, n - i), scale), vload_n(weight + i, n - i)), n - i);
}

void add(float* x, const float* y, i64 n) {
  for (i64 i = 0; i < n; i += kLanes)
    vstore_n(x + i, vadd(vload_n(x + i, n - i), vload_n(y + i, n - i)), n - i);
}

void swiglu(const float* gate, const float* up, i64 n, float* out) {
  for (i64 i = 0; i < n; i += kLanes) {
    const VF g = vload_n(gate + i, n - i);
    const VF silu = vdiv(g, vadd(vset(1.0f), vexp(vsub(vzero(), g))));
    vstore_n(out + i, vmul(silu, vload_n(up + i, n - i)), n - i);
  }
}

void rope(const RopeRow& r) {
  const i64 step = r.interleaved ? 2 : 1, far = r.interleaved ? 1 : r.half;
  for (i64 i = 0; i < r.half; ++i) {
    float* const p = r.x + i * step;
    const float a = p[0], b = p[far];
    p[0] = a * r.cos[i] - b * r.sin[i];
    p[far] = b * r.cos[i] + a * r.sin[i];
  }
}

void to_bf16(const float* x, i64 n, u16* out) {
  for (i64 i = 0; i < n; i += kLanes) vstore_bf16_n(out + i, vload_n(x + i, n - i), n - i);
}

void from_bf16(const u16* x, i64 n, float* out) {
  for (i64 i = 0; i < n; ++i) out[i] = __builtin_bit_cast(float, static_cast<u32>(x[i]) << 16);
}

float max(const float* x, i64 n) {
  VF top = vset(-__builtin_inff()), nans = vzero();
  const i64 whole = n / kLanes * kLanes;
  for (i64 i = 0; i < whole; i += kLanes) {
    const VF v = vload(x + i);
    top = vmax(top, v);
    nans = vadd(nans, vis_nan(v));
  }
  float m = vmax_lanes(top), bad = vsum(nans);
  for (i64 i = whole; i < n; ++i) {
    if (x[i] > m) m = x[i];
    if (x[i] != x[i]) bad = 1;
  }
  return bad != 0 ? __builtin_nanf("") : m;
}

double exps(const float* x, i64 n, float scale, float shift, float* out) {
  const VF a = vset(scale), b = vset(-shift);
  double total = 0;
  for (i64 chunk = 0; chunk < n; chunk += 1024) {
    const i64 end = n - chunk < 1024 ? n : chunk + 1024;
    VF sum = vzero();
    for (i64 i = chunk; i < end; i += kLanes) {
      const VF e = vexp(vfma(vload_n(x + i, end - i), a, b));
      if (out != nullptr) vstore_n(out + i, e, end - i);
      sum = vadd(sum, vkeep_n(e, end - i));
    }
    total += static_cast<double>(vsum(sum));
  }
  return total;
}

constexpr Kernels kTable = {
    kIsa,          kName,        sizeof(PackedX), pack_x,      gemm<Bf16Dot>,    sizeof(float),  pack_wide_x,
    gemm<WideDot>, gemm<F32Dot>, transpose,       pack_values, softmax<PackedX>, softmax<float>, scale_add,
    rms_norm,      add,          swiglu,          rope,        to_bf16,          from_bf16,      max,
    exps};
