// The inner loops that differ by instruction set. One source (kernels_body.h) is compiled once for each, and
// the table of the best that the CPU has is picked at run time. Single-threaded; no allocation; all strides
// in elements.
//
// Panels. A matrix product reads its weight as panels of 64 columns: element (k, column) of a panel lies
//   BF16:    at [k / 2][column][k % 2], k padded to a multiple of 32 with zeros
//   float32: at [k][column]
// Every output element is one chain of additions over ascending k, whatever the number of rows: this is what
// makes results independent of the batch.
#pragma once
#include "base/types.h"

namespace trireme::cpu {

enum class Isa : u8 { kGeneric, kAvx2, kAvx512Bf16 };

inline constexpr i64 kPanel = 64;  // columns
inline constexpr i64 kPadK = 32;   // BF16 panels: k is padded to this

struct PanelArgs {
  const void* panel;  // [k, 64] as above
  i64 k;              // even for BF16
  const void* x;      // [m, k]: packed activations for BF16 panels, float32 for float32 panels
  i64 x_stride;       // between rows of x
  i64 m;
  float* out;  // [m, columns]
  i64 out_stride;
  int columns;        // 1 to 64
  bool accumulate;    // start from what out holds
  const float* bias;  // [columns], added last; or nullptr
  // Not 0: out = scale * product (+ what out holds), the product summed on its own. A block of FP8 codes.
  float scale = 0;
};

struct RopeRow {
  float* x;          // the rotated part of one row, in place
  const float* cos;  // [half]
  const float* sin;  // [half]
  i64 half;
  bool interleaved;
};

struct Kernels {
  Isa isa;
  const char* name;

  // Packed activations: BF16 where the dot product takes BF16, float32 (not rounded) elsewhere.
  int x_bytes;
  void (*pack_x)(const float* x, i64 k, float scale, i64 padded_k, void* out);
  void (*gemm_bf16)(const PanelArgs&);
  // The same with activations in (nearly) float32: where the dot product takes BF16, as the sum of two BF16.
  int wide_x_bytes;
  void (*pack_wide_x)(const float* x, i64 k, float scale, i64 padded_k, void* out);
  void (*gemm_bf16_wide)(const PanelArgs&);
  void (*gemm_f32)(const PanelArgs&);

  // Attention. A block is up to 64 tokens; rows past `tokens` become zeros.
  // 32-bit elements: out[c][t] = in[t][c], t < 64. Two BF16 of a row are one element.
  void (*transpose)(const u32* in, i64 stride, int tokens, i64 cols, u32* out);
  // BF16 rows to panels of 64 columns over 64 tokens.
  void (*pack_values)(const u16* in, i64 stride, int tokens, i64 cols, u16* out);
  // Of row s[0, n): the columns [begin, end) count. Finds the maximum m of scale * s, writes the weights
  // exp(scale * s - m) (0 where a column does not count) as packed x or as float32, and returns m and their
  // sum. m is -infinity when no column counts.
  using Softmax = void (*)(const float* s, i64 n, i64 begin, i64 end, float scale, void* weights, float* m,
                           float* sum);
  Softmax softmax, softmax_f32;
  void (*scale_add)(float* out, float a, const float* x, float b, i64 n);  // out = a out + b x

  void (*rms_norm)(const float* x, const float* weight, float eps, i64 n, float* out);
  void (*add)(float* x, const float* y, i64 n);
  void (*swiglu)(const float* gate, const float* up, i64 n, float* out);
  void (*rope)(const RopeRow&);
  void (*to_bf16)(const float* x, i64 n, u16* out);  // to nearest, ties to even
  void (*from_bf16)(const u16* x, i64 n, float* out);

  // Sampling. max: NaN if any is NaN. exps: out[i] = exp(scale * x[i] - shift), returns the sum; out may be
  // null.
  float (*max)(const float* x, i64 n);
  double (*exps)(const float* x, i64 n, float scale, float shift, float* out);
};

const Kernels& generic_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_bf16_kernels();

}  // namespace trireme::cpu
