#include "backends/cuda/sm90/gemm/gemm.h"

#include <span>

#include "backends/cuda/heuristics/gemm_tile.h"
#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/gemm/launch.cuh"
#include "backends/cuda/sm90/gemm/thin.h"

namespace trireme::cuda {
namespace {

struct Kernel {
  int bn, pair, split;
  cudaError_t (*launch)(const GemmLaunch&);
};
constexpr Kernel kFp8Kernels[] = {
    {256, 1, 1, launch_fp8_128x256},       {256, 2, 1, launch_fp8_128x256_pair},
    {256, 1, 2, launch_fp8_128x256_split}, {192, 1, 1, launch_fp8_128x192},
    {192, 2, 1, launch_fp8_128x192_pair},  {128, 1, 1, launch_fp8_128x128},
    {128, 1, 2, launch_fp8_128x128_split}, {128, 1, kGather, launch_fp8_128x128_gather}};
constexpr Kernel kBf16Kernels[] = {{256, 1, 1, launch_bf16_128x256},
                                   {256, 2, 1, launch_bf16_128x256_pair},
                                   {128, 1, 1, launch_bf16_128x128}};
constexpr int kBm = kTallRows, kWidest = 256;

// What the two kinds have in common, with K in bytes.
struct Problem {
  const void *x, *w, *out;
  std::int64_t x_stride_bytes, out_stride;
  int n, k_bytes;
  GemmRows rows;
  bool out_f32;
  GemmFinish finish;
  GemmWorkspace workspace;
  const float* x_scale = nullptr;  // FP8 only
  std::int64_t x_scale_stride = 0;
};

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

bool valid(const Problem& p) {
  const GemmRows& r = p.rows;
  const GemmFinish& f = p.finish;
  if (f.residual != nullptr &&
      (!aligned16(f.residual) || f.residual_stride % 8 != 0 || f.residual_stride < p.n)) {
    return false;
  }
  if (!aligned16(p.workspace.data)) return false;
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

// Whether tiles may share their K there.
bool holds_sums(const GemmWorkspace& w, int ctas, int bn) {
  return w.data != nullptr && ctas <= kSplitSumMaxCtas && w.bytes >= split_sum_bytes(ctas, kBm * bn);
}

// The variant asked for, or else chosen; negative: there is no such.
int variant_of(const Problem& p, bool fp8, int variant, int sms) {
  if (variant >= 0) return variant < (fp8 ? kFp8TileCount : kBf16TileCount) ? variant : -1;
  const std::int64_t rows = p.rows.rows_hint > 0 ? p.rows.rows_hint : blocks(p.rows.rows, p.rows.experts);
  return choose_gemm_tile({.fp8 = fp8,
                           .rows_per_group = rows,
                           .groups = p.rows.experts,
                           .n = p.n,
                           .k = fp8 ? p.k_bytes : p.k_bytes / 2,
                           .sms = sms,
                           .even = p.rows.rows_hint > 0});
}

// Few rows: the thin kernel, which shares tiles only where there is room to meet.
cudaError_t start_thin(const GemmFp8Args& a, const GemmTile& tile, int sms, cudaStream_t stream) {
  ThinGemmArgs t = {.gemm = a, .least_steps = 0};
  for (int i = 0; i < kThinTileCount; ++i) {
    if (kThinTiles[i].tokens != tile.bm || kThinTiles[i].weights != tile.bn) continue;
    t.gemm.variant = i;
    const GemmWorkspace& w = a.workspace;
    if (tile.split > 1 && w.data != nullptr && w.bytes >= thin_workspace_bytes(i, sms))
      t.least_steps = kLeastThinSteps;
    return gemm_thin_fp8(t, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t start(const Problem& p, bool fp8, GemmTile tile, int sms, GemmLaunch& l) {
  const MapType type = fp8 ? MapType::u8 : MapType::bf16;
  const std::uint32_t bytes = fp8 ? 1 : 2;
  const auto rows = static_cast<std::uint64_t>(p.rows.rows), n = static_cast<std::uint64_t>(p.n);
  const auto k = static_cast<std::uint64_t>(p.k_bytes) / bytes;
  cudaError_t e =
      encode_tensor_map(matrix_map(p.x, type, rows, k, static_cast<std::uint64_t>(p.x_stride_bytes), kBm,
                                   128 / bytes, MapSwizzle::b128),
                        &l.x);
  if (e == cudaSuccess) {
    e = encode_tensor_map(
        matrix_map(p.w, type, static_cast<std::uint64_t>(p.rows.experts) * n, k,
                   static_cast<std::uint64_t>(p.k_bytes), static_cast<std::uint32_t>(tile.bn / tile.cluster),
                   128 / bytes, MapSwizzle::b128),
        &l.w);
  }
  if (e == cudaSuccess && fp8) {
    e = encode_tensor_map(
        matrix_map(p.x_scale, MapType::f32, static_cast<std::uint64_t>(blocks(p.k_bytes, 128)), rows,
                   static_cast<std::uint64_t>(p.x_scale_stride) * 4, 1,
                   static_cast<std::uint32_t>(scale_box(kBm)), MapSwizzle::none),
        &l.scale);
  }
  if (e == cudaSuccess && !p.out_f32) {
    e = encode_tensor_map(matrix_map(p.out, MapType::bf16, rows, n,
                                     static_cast<std::uint64_t>(p.out_stride) * 2, 64, 64, MapSwizzle::b128),
                          &l.out);
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
  g.out = const_cast<void*>(p.out);
  g.out_stride = p.out_stride;
  g.out_f32 = p.out_f32;
  g.split = 1;
  g.group_m = 2048 / (kBm * tile.cluster);
  g.row_weight = p.finish.row_weight;
  g.bias = p.finish.bias;
  g.residual = p.finish.residual;
  g.residual_stride = p.finish.residual_stride;
  const bool uneven = p.rows.counts != nullptr && p.rows.rows_hint == 0;
  if (uneven && tile.cluster == 1 && tile.split == 1 && p.workspace.bytes >= kSplitSumCounterBytes)
    g.taken = taken_counter(p.workspace.data);
  const std::int64_t tiles = most_row_blocks(p.rows, kBm * tile.cluster) * blocks(p.n, tile.bn);
  std::int64_t clusters = sms / tile.cluster;
  l.cluster = tile.cluster;
  if (tile.split == kGather) {
    g.split = gather_ctas(tiles, g.k_blocks, sms);
    while (g.split > 1 && clusters_fp8_128x128_gather(g.split) < tiles) --g.split;
    if (g.split > 1) {
      clusters = tiles;
      l.cluster = g.split;
    } else {
      tile.split = 1;
    }
  }
  if (tile.split == 2 && holds_sums(p.workspace, sms, tile.bn)) {
    g.split_least = least_split_steps(g.k_blocks);
    auto* const workspace = static_cast<char*>(p.workspace.data);
    g.split_place = {reinterpret_cast<std::uint32_t*>(workspace),
                     reinterpret_cast<float4*>(workspace + kSplitSumCounterBytes)};
  } else if (tiles < clusters) {
    clusters = tiles;
  }
  l.ctas = static_cast<int>(clusters) * l.cluster;
  if (l.ctas == 0) return cudaErrorInvalidValue;
  for (const Kernel& kernel :
       fp8 ? std::span<const Kernel>(kFp8Kernels) : std::span<const Kernel>(kBf16Kernels)) {
    if (kernel.bn == tile.bn && kernel.pair == tile.cluster && kernel.split == tile.split)
      return kernel.launch(l);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

std::int64_t gemm_workspace_bytes(int sms) { return split_sum_bytes(sms, kBm * kWidest); }

cudaError_t gemm_fp8(const GemmFp8Args& a, cudaStream_t stream) {
  const Problem p = {a.x,       a.w,      a.out,       a.x_stride, a.out_stride,    a.n, a.k, a.rows,
                     a.out_f32, a.finish, a.workspace, a.x_scale,  a.x_scale_stride};
  if (!valid(p) || !aligned16(a.x_scale) || a.x_scale_stride % 4 != 0 || a.x_scale_stride < a.rows.rows ||
      a.w_scale == nullptr || a.w_scale_stride < blocks(a.k, 128)) {
    return cudaErrorInvalidValue;
  }
  if (a.rows.rows == 0) return cudaSuccess;
  const int sms = a.sms > 0 ? a.sms : sm_count();
  if (sms == 0) return cudaErrorNoDevice;
  const int variant = variant_of(p, true, a.variant, sms);
  if (variant < 0) return cudaErrorInvalidValue;
  const GemmTile& tile = kFp8Tiles[variant];
  if (tile.bm < kTallRows) return start_thin(a, tile, sms, stream);
  GemmLaunch l = {};
  l.stream = stream;
  l.params.w_scale = a.w_scale;
  l.params.w_scale_stride = a.w_scale_stride;
  return start(p, true, tile, sms, l);
}

cudaError_t gemm_bf16(const GemmBf16Args& a, cudaStream_t stream) {
  const Problem p = {a.x,     a.w,    a.out,     2 * a.x_stride, a.out_stride, a.n,
                     2 * a.k, a.rows, a.out_f32, a.finish,       a.workspace};
  if (!valid(p)) return cudaErrorInvalidValue;
  if (a.rows.rows == 0) return cudaSuccess;
  const int sms = a.sms > 0 ? a.sms : sm_count();
  if (sms == 0) return cudaErrorNoDevice;
  const int variant = variant_of(p, false, a.variant, sms);
  if (variant < 0) return cudaErrorInvalidValue;
  GemmLaunch l = {};
  l.stream = stream;
  return start(p, false, kBf16Tiles[variant], sms, l);
}

}  // namespace trireme::cuda
