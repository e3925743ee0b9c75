#include "backends/cuda/sm90/gemm/gemm.h"

#include "backends/cuda/heuristics/gemm_tile.h"
#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/gemm/launch.cuh"

namespace trireme::cuda {
namespace {

struct Kernel {
  int bm, bn;
  bool split;
  cudaError_t (*launch)(const GemmLaunch&);
};
constexpr Kernel kFp8Kernels[] = {
    {256, 128, false, launch_fp8_256x128},      {128, 192, false, launch_fp8_128x192},
    {128, 128, false, launch_fp8_128x128},      {64, 256, false, launch_fp8_64x256},
    {64, 128, false, launch_fp8_64x128},        {64, 64, false, launch_fp8_64x64},
    {128, 128, true, launch_fp8_128x128_split}, {64, 128, true, launch_fp8_64x128_split},
};
constexpr Kernel kBf16Kernels[] = {{128, 256, false, launch_bf16_128x256},
                                   {128, 128, false, launch_bf16_128x128},
                                   {64, 128, false, launch_bf16_64x128}};

// What the two kinds have in common, with K in bytes.
struct Problem {
  const void *x, *w, *out;
  std::int64_t x_stride_bytes, out_stride;
  int n, k_bytes;
  GemmRows rows;
  int sms;
  const float* x_scale = nullptr;  // FP8 only
  std::int64_t x_scale_stride = 0;
};

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

bool valid(const Problem& p) {
  const GemmRows& r = p.rows;
  if (!aligned16(p.x) || !aligned16(p.w) || !aligned16(p.out)) return false;
  if (p.n <= 0 || p.n % 8 != 0 || p.k_bytes <= 0 || p.k_bytes % 16 != 0) return false;
  if (p.x_stride_bytes % 16 != 0 || p.x_stride_bytes < p.k_bytes || p.out_stride % 8 != 0 ||
      p.out_stride < p.n)
    return false;
  if (r.experts < 1 || r.rows < 0 || r.rows > (std::int64_t{1} << 30)) return false;
  if (static_cast<std::int64_t>(r.experts) * p.n > (std::int64_t{1} << 30)) return false;
  switch (r.layout) {
    case RowLayout::dense:
      return r.experts == 1;
    case RowLayout::packed:
      return r.counts != nullptr;
    case RowLayout::masked:
      break;
  }
  return r.counts != nullptr && r.max_m > 0 && r.rows == static_cast<std::int64_t>(r.experts) * r.max_m;
}

int sm_count() {
  int device = 0, sms = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  return sms;
}

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// No more row blocks than this whatever the counts.
std::int64_t most_row_blocks(const GemmRows& r, int bm) {
  switch (r.layout) {
    case RowLayout::dense:
      return blocks(r.rows, bm);
    case RowLayout::masked:
      return r.experts * blocks(r.max_m, bm);
    case RowLayout::packed:
      break;
  }
  return blocks(r.rows, bm) + r.experts - 1;
}

cudaError_t start(const Problem& p, bool fp8, int variant, GemmLaunch& l) {
  const int sms = p.sms > 0 ? p.sms : sm_count();
  if (sms == 0) return cudaErrorNoDevice;
  if (variant < 0) {
    const std::int64_t rows = p.rows.rows_hint > 0 ? p.rows.rows_hint : blocks(p.rows.rows, p.rows.experts);
    variant = choose_gemm_tile({.fp8 = fp8,
                                .rows_per_group = rows,
                                .groups = p.rows.experts,
                                .n = p.n,
                                .k = fp8 ? p.k_bytes : p.k_bytes / 2,
                                .sms = sms});
  }
  if (variant >= (fp8 ? kFp8TileCount : kBf16TileCount)) return cudaErrorInvalidValue;
  const GemmTile tile = fp8 ? kFp8Tiles[variant] : kBf16Tiles[variant];

  const MapType type = fp8 ? MapType::u8 : MapType::bf16;
  const std::uint32_t bytes = fp8 ? 1 : 2;
  const auto rows = static_cast<std::uint64_t>(p.rows.rows);
  const auto k = static_cast<std::uint64_t>(p.k_bytes) / bytes;
  const auto w_rows = static_cast<std::uint64_t>(p.rows.experts) * static_cast<std::uint64_t>(p.n);
  cudaError_t e = encode_tensor_map(
      matrix_map(p.x, type, rows, k, static_cast<std::uint64_t>(p.x_stride_bytes),
                 static_cast<std::uint32_t>(tile.bm / tile.cluster), 128 / bytes, MapSwizzle::b128),
      &l.x);
  if (e == cudaSuccess) {
    e = encode_tensor_map(matrix_map(p.w, type, w_rows, k, static_cast<std::uint64_t>(p.k_bytes),
                                     static_cast<std::uint32_t>(tile.bn), 128 / bytes, MapSwizzle::b128),
                          &l.w);
  }
  if (e == cudaSuccess && fp8) {
    e = encode_tensor_map(
        matrix_map(p.x_scale, MapType::f32, static_cast<std::uint64_t>(blocks(p.k_bytes, 128)), rows,
                   static_cast<std::uint64_t>(p.x_scale_stride) * 4, 1,
                   static_cast<std::uint32_t>(scale_box(tile.bm)), MapSwizzle::none),
        &l.scale);
  }
  if (e != cudaSuccess) return e;

  GemmParams& g = l.params;
  g.layout = p.rows.layout;
  g.experts = p.rows.experts;
  g.counts = p.rows.counts;
  g.rows = static_cast<int>(p.rows.rows);
  g.max_m = p.rows.max_m;
  g.n = p.n;
  g.k_blocks = static_cast<int>(blocks(p.k_bytes, 128));
  g.out_stride = p.out_stride;
  g.cluster = tile.cluster;
  g.split = tile.split < g.k_blocks ? tile.split : g.k_blocks;
  g.group_m = 2048 / tile.bm;
  const std::int64_t tiles = most_row_blocks(p.rows, tile.bm) * blocks(p.n, tile.bn * tile.cluster);
  const int in_cluster = tile.cluster * g.split;
  const std::int64_t clusters = sms / in_cluster;
  l.ctas = static_cast<int>(tiles < clusters ? tiles : clusters) * in_cluster;
  if (l.ctas == 0) return cudaErrorInvalidValue;
  const Kernel* kernels = fp8 ? kFp8Kernels : kBf16Kernels;
  const int count = fp8 ? static_cast<int>(sizeof(kFp8Kernels) / sizeof(Kernel))
                        : static_cast<int>(sizeof(kBf16Kernels) / sizeof(Kernel));
  for (int i = 0; i < count; ++i) {
    if (kernels[i].bm == tile.bm && kernels[i].bn == tile.bn && kernels[i].split == (tile.split > 1))
      return kernels[i].launch(l);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t gemm_fp8(const GemmFp8Args& a, cudaStream_t stream) {
  const Problem p = {a.x, a.w,    a.out, a.x_stride, a.out_stride,    a.n,
                     a.k, a.rows, a.sms, a.x_scale,  a.x_scale_stride};
  if (!valid(p) || !aligned16(a.x_scale) || a.x_scale_stride % 4 != 0 || a.x_scale_stride < a.rows.rows ||
      a.w_scale == nullptr || a.w_scale_stride < blocks(a.k, 128)) {
    return cudaErrorInvalidValue;
  }
  if (a.rows.rows == 0) return cudaSuccess;
  GemmLaunch l = {};
  l.stream = stream;
  l.params.w_scale = a.w_scale;
  l.params.w_scale_stride = a.w_scale_stride;
  l.params.out = a.out;
  l.params.out_f32 = a.out_f32;
  return start(p, true, a.variant, l);
}

cudaError_t gemm_bf16(const GemmBf16Args& a, cudaStream_t stream) {
  const Problem p = {a.x, a.w, a.out, 2 * a.x_stride, a.out_stride, a.n, 2 * a.k, a.rows, a.sms};
  if (!valid(p)) return cudaErrorInvalidValue;
  if (a.rows.rows == 0) return cudaSuccess;
  GemmLaunch l = {};
  l.stream = stream;
  l.params.out = a.out;
  l.params.out_f32 = a.out_f32;
  return start(p, false, a.variant, l);
}

}  // namespace trireme::cuda
