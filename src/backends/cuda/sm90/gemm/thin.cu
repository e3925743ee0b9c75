#include "backends/cuda/sm90/gemm/thin.h"

#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/gemm/thin_launch.cuh"

namespace trireme::cuda {
namespace {

constexpr cudaError_t (*kLaunches[])(const ThinLaunch&) = {launch_thin_32x64,  launch_thin_32x128,
                                                           launch_thin_32x256, launch_thin_64x64,
                                                           launch_thin_64x128, launch_thin_64x192};
static_assert(sizeof(kLaunches) / sizeof(kLaunches[0]) == kThinTileCount);

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

bool valid(const GemmFp8Args& a) {
  const GemmRows& r = a.rows;
  const GemmFinish& f = a.finish;
  if (f.residual != nullptr && f.residual_stride < a.n) return false;
  if (!aligned16(a.x) || !aligned16(a.w) || !aligned16(a.out) || !aligned16(a.x_scale)) return false;
  if (a.n <= 0 || a.n % 8 != 0 || a.k <= 0 || a.k % 16 != 0) return false;
  if (a.x_stride % 16 != 0 || a.x_stride < a.k || a.out_stride % 8 != 0 || a.out_stride < a.n) return false;
  if (a.x_scale_stride % 4 != 0 || a.x_scale_stride < r.rows) return false;
  if (a.w_scale == nullptr || a.w_scale_stride < blocks(a.k, 128)) return false;
  if (r.experts < 1 || r.rows < 0 || r.rows > (std::int64_t{1} << 30)) return false;
  if (static_cast<std::int64_t>(r.experts) * a.n > (std::int64_t{1} << 30)) return false;
  if (a.variant < 0 || a.variant >= kThinTileCount) return false;
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

// No more token tiles than this whatever the counts.
std::int64_t most_token_tiles(const GemmRows& r, int tokens) {
  switch (r.layout) {
    case RowLayout::dense:
      return blocks(r.rows, tokens);
    case RowLayout::masked:
      return r.experts * blocks(r.max_m, tokens);
    case RowLayout::packed:
      break;
  }
  return blocks(r.rows, tokens) + r.experts - 1;
}

cudaError_t encode_maps(const GemmFp8Args& a, ThinTile tile, ThinLaunch& l) {
  const auto rows = static_cast<std::uint64_t>(a.rows.rows), k = static_cast<std::uint64_t>(a.k);
  const auto w_rows = static_cast<std::uint64_t>(a.rows.experts) * static_cast<std::uint64_t>(a.n);
  cudaError_t e =
      encode_tensor_map(matrix_map(a.x, MapType::u8, rows, k, static_cast<std::uint64_t>(a.x_stride),
                                   static_cast<std::uint32_t>(tile.tokens), 128, MapSwizzle::b128),
                        &l.x);
  if (e != cudaSuccess) return e;
  e = encode_tensor_map(matrix_map(a.w, MapType::u8, w_rows, k, k, static_cast<std::uint32_t>(tile.weights),
                                   128, MapSwizzle::b128),
                        &l.w);
  if (e != cudaSuccess) return e;
  return encode_tensor_map(matrix_map(a.x_scale, MapType::f32, static_cast<std::uint64_t>(blocks(a.k, 128)),
                                      rows, static_cast<std::uint64_t>(a.x_scale_stride) * 4, 1,
                                      static_cast<std::uint32_t>(tile.tokens + 4), MapSwizzle::none),
                           &l.scale);
}

}  // namespace

std::int64_t thin_workspace_bytes(int variant, int ctas) {
  const ThinTile tile = kThinTiles[variant];
  return split_sum_bytes(ctas, std::int64_t{tile.tokens} * tile.weights);
}

cudaError_t gemm_thin_fp8(const ThinGemmArgs& args, cudaStream_t stream) {
  const GemmFp8Args& a = args.gemm;
  if (!valid(a) || args.least_steps < 0 || a.variant < 0 || a.variant >= kThinTileCount)
    return cudaErrorInvalidValue;
  if (a.rows.rows == 0) return cudaSuccess;
  const int sms = a.sms > 0 ? a.sms : sm_count();
  if (sms == 0) return cudaErrorNoDevice;
  if (sms > kSplitSumMaxCtas) return cudaErrorInvalidValue;
  const ThinTile tile = kThinTiles[a.variant];
  ThinLaunch l = {};
  l.stream = stream;
  const cudaError_t e = encode_maps(a, tile, l);
  if (e != cudaSuccess) return e;

  ThinParams& p = l.params;
  p.layout = a.rows.layout;
  p.experts = a.rows.experts;
  p.counts = a.rows.counts;
  p.rows = static_cast<int>(a.rows.rows);
  p.max_m = a.rows.max_m;
  p.n = a.n;
  p.k_blocks = static_cast<int>(blocks(a.k, 128));
  p.w_scale = a.w_scale;
  p.w_scale_stride = a.w_scale_stride;
  p.out = a.out;
  p.out_stride = a.out_stride;
  p.out_f32 = a.out_f32;
  p.finish = a.finish;
  p.least_steps = args.least_steps;
  const std::int64_t tiles = most_token_tiles(a.rows, tile.tokens) * blocks(a.n, tile.weights);
  if (tiles * p.k_blocks > 0x7FFFFFFF) return cudaErrorInvalidValue;
  const std::int64_t parts = p.least_steps == 0 ? tiles : blocks(tiles * p.k_blocks, p.least_steps);
  l.ctas = static_cast<int>(parts < sms ? parts : sms);
  if (p.least_steps > 0) {
    if (!aligned16(a.workspace.data) || a.workspace.data == nullptr ||
        a.workspace.bytes < thin_workspace_bytes(a.variant, l.ctas))
      return cudaErrorInvalidValue;
    p.split.counters = static_cast<std::uint32_t*>(a.workspace.data);
    p.split.sums = reinterpret_cast<float4*>(static_cast<char*>(a.workspace.data) + kSplitSumCounterBytes);
  }
  return kLaunches[a.variant](l);
}

}  // namespace trireme::cuda
