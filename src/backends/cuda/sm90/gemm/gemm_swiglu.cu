#include "backends/cuda/sm90/gemm/gemm_swiglu.h"

#include <atomic>

#include "backends/cuda/heuristics/swiglu_choice.h"
#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/gemm/swiglu_kernel.cuh"
#include "backends/cuda/sm90/gemm/swiglu_small.cuh"

namespace trireme::cuda {
namespace {

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

std::int64_t blocks(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

bool valid(const GemmSwigluArgs& a) {
  const GemmRows& r = a.rows;
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  if (a.n <= 0 || a.n % 128 != 0 || a.k <= 0 || a.k % 16 != 0) return false;
  if (!aligned16(a.x) || a.x_stride % 16 != 0 || a.x_stride < a.k) return false;
  if (a.x_scale == nullptr || !aligned16(a.x_scale) || a.x_scale_stride % 4 != 0 || a.x_scale_stride < r.rows)
    return false;
  if (!aligned16(a.w) || a.w_scale == nullptr || a.w_scale_stride < blocks(a.k, 128)) return false;
  if (a.codes == nullptr && a.out == nullptr) return false;
  if (a.codes != nullptr && (!aligned16(a.codes) || a.scale == nullptr || a.scale_stride < r.rows))
    return false;
  if (a.out != nullptr && (!aligned16(a.out) || a.out_stride % 8 != 0 || a.out_stride < a.n)) return false;
  if (r.experts < 1 || r.rows < 0 || r.rows > kMost || std::int64_t{r.experts} * 2 * a.n > kMost)
    return false;
  switch (r.layout) {
    case RowLayout::dense:
      return r.experts == 1;
    case RowLayout::packed:
      return r.counts != nullptr;
    case RowLayout::masked:
      break;
  }
  return r.counts != nullptr && r.max_m > 0 && r.rows == std::int64_t{r.experts} * r.max_m;
}

// No more row blocks than this whatever the counts.
std::int64_t most_row_blocks(const GemmRows& r, int bm) {
  if (r.layout == RowLayout::masked) return r.experts * blocks(r.max_m, bm);
  return blocks(r.rows, bm) + r.experts - 1;
}

int sm_count() {
  int device = 0, sms = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  return sms;
}

// Gate and up rows of an expert as two planes: a copy brings the same columns of both, or of one.
TensorMapSpec weight_map(const GemmSwigluArgs& a, std::uint32_t planes) {
  TensorMapSpec s;
  s.base = a.w;
  s.type = MapType::u8;
  s.rank = 3;
  s.dims[0] = static_cast<std::uint64_t>(a.k);
  s.dims[1] = static_cast<std::uint64_t>(a.n);
  s.dims[2] = 2 * static_cast<std::uint64_t>(a.rows.experts);
  s.stride_bytes[0] = static_cast<std::uint64_t>(a.k);
  s.stride_bytes[1] = static_cast<std::uint64_t>(a.n) * static_cast<std::uint64_t>(a.k);
  s.box[0] = fused::kStepK;
  s.box[1] = fused::kBn;
  s.box[2] = planes;
  s.swizzle = MapSwizzle::b128;
  return s;
}

struct Launch {
  CUtensorMap x, w, scale;
  fused::SwigluParams params;
};

cudaError_t encode_maps(const GemmSwigluArgs& a, const SwigluTile& tile, Launch& l) {
  const auto rows = static_cast<std::uint64_t>(a.rows.rows), k = static_cast<std::uint64_t>(a.k);
  const auto box_rows = static_cast<std::uint32_t>(tile.bm);
  cudaError_t e =
      encode_tensor_map(matrix_map(a.x, MapType::u8, rows, k, static_cast<std::uint64_t>(a.x_stride),
                                   box_rows, fused::kStepK, MapSwizzle::b128),
                        &l.x);
  if (e == cudaSuccess) e = encode_tensor_map(weight_map(a, tile.pair == 2 ? 1 : 2), &l.w);
  if (e != cudaSuccess) return e;
  return encode_tensor_map(
      matrix_map(a.x_scale, MapType::f32, static_cast<std::uint64_t>(blocks(a.k, 128)), rows,
                 static_cast<std::uint64_t>(a.x_scale_stride) * 4, 1, box_rows + 4, MapSwizzle::none),
      &l.scale);
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, CUtensorMap, fused::SwigluParams);

struct KernelChoice {
  Kernel kernel;
  int smem;
};

KernelChoice kernel_of(const SwigluTile& tile) {
  if (tile.bm == 64) return {fused::small::swiglu_small_kernel, fused::small::kSmemBytes};
  if (tile.pair == 2) return {fused::swiglu_kernel<2, false>, fused::kSmemBytes};
  return {tile.shared ? fused::swiglu_kernel<1, true> : fused::swiglu_kernel<1, false>, fused::kSmemBytes};
}

// A launch of `ctas` in clusters; `attributes` must live as long as the result.
cudaLaunchConfig_t config_of(const KernelChoice& k, int ctas, int cluster, cudaStream_t stream,
                             cudaLaunchAttribute (&attributes)[2]) {
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(ctas));
  config.blockDim = dim3(fused::kThreads);
  config.dynamicSmemBytes = static_cast<std::size_t>(k.smem);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return config;
}

// How many clusters of a variant run at once on the whole chip: a part of the chip that has no room for one
// more stays idle. 0 where the question failed.
int clusters_at_once(const KernelChoice& k, int cluster, int sms) {
  if (cluster == 1) return sms;
  cudaLaunchAttribute attributes[2] = {};
  const cudaLaunchConfig_t config = config_of(k, sms / cluster * cluster, cluster, nullptr, attributes);
  int count = 0;
  return cudaOccupancyMaxActiveClusters(&count, k.kernel, &config) == cudaSuccess ? count : 0;
}

// Asked once a variant; what differs between devices of one process is not worth asking again.
int chip_clusters(int variant, const KernelChoice& k, int cluster, int sms) {
  static std::atomic<int> known[kSwigluTileCount] = {};
  int count = known[variant].load(std::memory_order_relaxed);
  if (count == 0) {
    count = clusters_at_once(k, cluster, sms);
    known[variant].store(count, std::memory_order_relaxed);
  }
  return count;
}

}  // namespace

std::int64_t gemm_swiglu_workspace_bytes(int sms) {
  return fused::kStreamFlagBytes + sms * fused::kStreamSumBytes;
}

cudaError_t gemm_swiglu(const GemmSwigluArgs& a, cudaStream_t stream) {
  if (!valid(a)) return cudaErrorInvalidValue;
  if (a.rows.rows == 0) return cudaSuccess;
  const int chip_sms = sm_count();
  if (chip_sms == 0) return cudaErrorNoDevice;
  const int sms = a.sms > 0 ? a.sms : chip_sms;
  int variant = a.variant;
  if (variant < 0) {
    const GemmRows& r = a.rows;
    variant = choose_swiglu_tile({.rows_per_group = r.rows_hint > 0 ? r.rows_hint : blocks(r.rows, r.experts),
                                  .groups = r.experts,
                                  .n = a.n,
                                  .k = a.k,
                                  .even = r.rows_hint > 0,
                                  .sms = sms});
  }
  if (variant >= kSwigluTileCount) return cudaErrorInvalidValue;
  SwigluTile tile = kSwigluTiles[variant];
  if (a.rows.experts > 32 || sms > fused::kMostStreamCtas ||
      a.workspace_bytes < gemm_swiglu_workspace_bytes(sms))
    tile.shared = false;

  Launch l = {};
  cudaError_t e = encode_maps(a, tile, l);
  if (e != cudaSuccess) return e;
  GemmParams& g = l.params.gemm;
  g.layout = a.rows.layout;
  g.experts = a.rows.experts;
  g.counts = a.rows.counts;
  g.rows = static_cast<int>(a.rows.rows);
  g.max_m = a.rows.max_m;
  g.n = a.n;
  g.k_blocks = static_cast<int>(blocks(a.k, 128));
  g.w_scale = a.w_scale;
  g.w_scale_stride = a.w_scale_stride;
  g.split = tile.split * tile.pair;
  while (tile.split > 1 && g.split > g.k_blocks) g.split /= 2;
  g.group_m = 2048 / (tile.bm * tile.pair);
  l.params.workspace = a.workspace;
  l.params.codes = a.codes;
  l.params.scale = a.scale;
  l.params.scale_stride = a.scale_stride;
  l.params.out = static_cast<__nv_bfloat16*>(a.out);
  l.params.out_stride = a.out_stride;
  const KernelChoice k = kernel_of(tile);
  e = cudaFuncSetAttribute(k.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, k.smem);
  if (e != cudaSuccess) return e;
  const std::int64_t tiles = most_row_blocks(a.rows, tile.bm * tile.pair) * (a.n / 128);
  std::int64_t clusters = sms / g.split;
  const int most = chip_clusters(variant, k, g.split, chip_sms);
  if (clusters > most) clusters = most;
  const auto ctas = static_cast<int>(tiles < clusters ? tiles : clusters) * g.split;
  if (ctas == 0) return cudaErrorInvalidValue;
  cudaLaunchAttribute attributes[2] = {};
  const cudaLaunchConfig_t config = config_of(k, ctas, g.split, stream, attributes);
  return cudaLaunchKernelEx(&config, k.kernel, l.x, l.w, l.scale, l.params);
}

}  // namespace trireme::cuda
