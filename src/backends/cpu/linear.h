// Matrix products of the fast path: weights packed once into panels (kernels.h), products cut into pieces of
// (matrix, panel, rows) that the threads share.
#pragma once
#include "backends/cpu/cpu_device.h"
#include "ops/ops.h"

namespace trireme::cpu {

struct PackedWeight {
  i64 n = 0, k = 0;
  i64 padded_k = 0;           // k of a panel
  bool bf16 = true;           // else float32
  bool wide = false;          // LinearWeight::precise: float32 activations
  i64 scale_cols = 0;         // panels of FP8 codes: scales [ceil(n / 128), scale_cols], a block of k is 128
  std::vector<float> scales;  // else empty
  Buffer panels;              // [ceil(n / 64)] panels
  std::vector<float> bias;    // [n] or empty

  bool same_kind(const PackedWeight& o) const { return bf16 == o.bf16 && wide == o.wide; }
  i64 panel_bytes() const { return padded_k * kPanel * (bf16 ? 2 : 4); }
  const char* panel(i64 i) const { return static_cast<const char*>(panels.data()) + i * panel_bytes(); }
};

// One product: rows of x (float32, row r at x + r * x_stride) by one weight.
struct Product {
  const PackedWeight* w = nullptr;
  const float* x = nullptr;
  i64 x_stride = 0;
  i64 rows = 0;
  float* out = nullptr;
  i64 out_stride = 0;
};

// All of the same k and type. Their results do not depend on each other's presence.
void multiply(CpuStream& s, std::span<const Product> products);

// Ops rows.
Status prepare(Device&, LinearWeight&);
i64 prepared_bytes(i64 n, i64 k, DType stored);
Status linear(const LinearArgs&, Stream&);
Status head_linear(const HeadLinearArgs&, Stream&);
Status grouped_linear(const GroupedLinearArgs&, Stream&);

}  // namespace trireme::cpu
