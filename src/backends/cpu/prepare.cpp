// Stored weights to panels.
#include <algorithm>
#include <cstring>

#include "backends/cpu/args_check.h"
#include "backends/cpu/linear.h"

namespace trireme::cpu {
namespace {

std::array<float, 256> f8_table() {
  std::array<float, 256> t;
  for (int i = 0; i < 256; ++i) t[static_cast<std::size_t>(i)] = f8e4m3_to_float(static_cast<u8>(i));
  return t;
}

// One row of the stored weight as BF16. FP8 is scaled in float32 and rounded once, or (precise) left as
// codes, which BF16 holds exactly.
void row_to_bf16(const LinearWeight& w, i64 row, const Kernels& kernels, float* wide, u16* out) {
  static const std::array<float, 256> kF8 = f8_table();
  const void* const from = w.weight.row(row);
  switch (w.weight.dtype) {
    case DType::kF8E4M3: {
      const auto* scales = static_cast<const float*>(w.scale.row(row / 128));
      const auto* codes = static_cast<const u8*>(from);
      for (i64 c = 0; c < w.k; ++c) wide[c] = w.precise ? kF8[codes[c]] : kF8[codes[c]] * scales[c / 128];
      break;
    }
    case DType::kF16:
      for (i64 c = 0; c < w.k; ++c) wide[c] = f16_to_float(static_cast<const u16*>(from)[c]);
      break;
    default:
      std::memcpy(out, from, static_cast<std::size_t>(w.k) * 2);
      return;
  }
  kernels.to_bf16(wide, w.k, out);
}

// Whether rows can be read as 32-bit pairs where they are.
bool pairs_in_place(const LinearWeight& w) {
  return w.weight.dtype == DType::kBF16 && w.k % 2 == 0 && w.weight.row_stride % 2 == 0 &&
         reinterpret_cast<std::uintptr_t>(w.weight.data) % 4 == 0;
}

void pack_panel(const LinearWeight& w, const PackedWeight& p, i64 index, const Kernels& kernels,
                Scratch& scratch) {
  auto* const out = reinterpret_cast<u32*>(const_cast<char*>(p.panel(index)));
  const i64 first = index * kPanel;
  const int rows = static_cast<int>(std::min(kPanel, w.n - first));
  if (!p.bf16) {
    kernels.transpose(static_cast<const u32*>(w.weight.row(first)), w.weight.row_stride, rows, w.k, out);
    return;
  }
  const i64 pairs = ceil_div(w.k, 2);
  if (pairs_in_place(w)) {
    kernels.transpose(static_cast<const u32*>(w.weight.row(first)), w.weight.row_stride / 2, rows, pairs,
                      out);
  } else {
    const i64 stride = round_up(w.k, 2);
    u16* const narrow = scratch.take<u16>(0, kPanel * stride);
    float* const wide = scratch.take<float>(1, w.k);
    for (i64 r = 0; r < rows; ++r) {
      narrow[r * stride + stride - 1] = 0;
      row_to_bf16(w, first + r, kernels, wide, narrow + r * stride);
    }
    kernels.transpose(reinterpret_cast<const u32*>(narrow), stride / 2, rows, pairs, out);
  }
  std::fill(out + pairs * kPanel, out + p.padded_k / 2 * kPanel, 0u);
}

}  // namespace

i64 prepared_bytes(i64 n, i64 k, DType stored) {
  return ceil_div(n, kPanel) * kPanel * (stored == DType::kF32 ? k * 4 : round_up(k, kPadK) * 2);
}

Status prepare(Device& device, LinearWeight& w) {
  TRY(check_stored(w));
  auto& cpu_device = static_cast<CpuDevice&>(device);
  auto packed = std::make_shared<PackedWeight>();
  packed->n = w.n;
  packed->k = w.k;
  packed->bf16 = w.weight.dtype != DType::kF32;
  packed->wide = packed->bf16 && w.precise;
  if (packed->wide && w.weight.dtype == DType::kF8E4M3) {
    packed->scale_cols = w.scale.shape.cols();
    for (i64 r = 0; r < w.scale.shape.rows(); ++r) {
      const auto* row = static_cast<const float*>(w.scale.row(r));
      packed->scales.insert(packed->scales.end(), row, row + packed->scale_cols);
    }
  }
  packed->padded_k = packed->bf16 ? round_up(w.k, kPadK) : w.k;
  const i64 panels = ceil_div(w.n, kPanel);
  ASSIGN(packed->panels, device.allocate(panels * packed->panel_bytes()));
  if (w.bias) {
    for (i64 i = 0; i < w.n; ++i) {
      const auto* bias = static_cast<const char*>(w.bias.data) + i * size_of(w.bias.dtype);
      u16 half = 0;
      float full = 0;
      if (w.bias.dtype == DType::kF32) {
        std::memcpy(&full, bias, sizeof full);
      } else {
        std::memcpy(&half, bias, sizeof half);
        full = w.bias.dtype == DType::kF16 ? f16_to_float(half)
                                           : std::bit_cast<float>(static_cast<u32>(half) << 16);
      }
      packed->bias.push_back(full);
    }
  }
  const Kernels& kernels = cpu_device.kernels();
  std::vector<Scratch> scratch(static_cast<std::size_t>(cpu_device.pool().threads()));
  const i64 grain = panels * packed->panel_bytes() < (256 << 10) ? panels : 1;
  cpu_device.pool().parallel_for(panels, grain, [&](i64 begin, i64 end, int worker) {
    for (i64 i = begin; i < end; ++i)
      pack_panel(w, *packed, i, kernels, scratch[static_cast<std::size_t>(worker)]);
  });
  w.stored_bytes = packed->panels.bytes();
  w.packed = std::move(packed);
  return {};
}

}  // namespace trireme::cpu
