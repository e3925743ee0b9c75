#include "backends/cuda/sm90/gemm/gemm_swiglu.h"

#include "backends/cuda/heuristics/swiglu_choice.h"
#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/gemm/launch_config.h"
#include "backends/cuda/sm90/gemm/swiglu_kernel.cuh"

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

cudaError_t encode_maps(const GemmSwigluArgs& a, int pair, Launch& l) {
  const auto rows = static_cast<std::uint64_t>(a.rows.rows), k = static_cast<std::uint64_t>(a.k);
  cudaError_t e =
      encode_tensor_map(matrix_map(a.x, MapType::u8, rows, k, static_cast<std::uint64_t>(a.x_stride),
                                   fused::kBm, fused::kStepK, MapSwizzle::b128),
                        &l.x);
  if (e == cudaSuccess) e = encode_tensor_map(weight_map(a, pair == 2 ? 1 : 2), &l.w);
  if (e != cudaSuccess) return e;
  return encode_tensor_map(
      matrix_map(a.x_scale, MapType::f32, static_cast<std::uint64_t>(blocks(a.k, 128)), rows,
                 static_cast<std::uint64_t>(a.x_scale_stride) * 4, 1, fused::kScaleBox, MapSwizzle::none),
      &l.scale);
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, CUtensorMap, fused::SwigluParams);

}  // namespace

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
  if (variant >= kSwigluVariants) return cudaErrorInvalidValue;
  const int pair = kSwigluPairs[variant];

  Launch l = {};
  cudaError_t e = encode_maps(a, pair, l);
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
  g.split = pair;
  g.group_m = 2048 / (fused::kBm * pair);
  l.params.codes = a.codes;
  l.params.scale = a.scale;
  l.params.scale_stride = a.scale_stride;
  l.params.out = static_cast<__nv_bfloat16*>(a.out);
  l.params.out_stride = a.out_stride;
  const Kernel kernel = pair == 2 ? fused::swiglu_kernel<2> : fused::swiglu_kernel<1>;
  e = allow_smem(kernel, fused::kSmemBytes);
  if (e != cudaSuccess) return e;
  const std::int64_t tiles = most_row_blocks(a.rows, fused::kBm * pair) * (a.n / 128);
  const std::int64_t clusters = sms / pair;
  const auto ctas = static_cast<int>(tiles < clusters ? tiles : clusters) * pair;
  if (ctas == 0) return cudaErrorInvalidValue;
  LaunchConfig launch(fused::kThreads, fused::kSmemBytes, pair);
  launch.config.gridDim = dim3(static_cast<unsigned>(ctas));
  launch.config.stream = stream;
  return cudaLaunchKernelEx(&launch.config, kernel, l.x, l.w, l.scale, l.params);
}

}  // namespace trireme::cuda
