#include "backends/cuda/sm90/gemm/gemm_swiglu.h"

#include "backends/cuda/prim/launch.h"
#include "backends/cuda/prim/tensor_map.h"
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

// Gate and up rows of an expert as two planes: a copy brings the same columns of both.
TensorMapSpec weight_map(const GemmSwigluArgs& a) {
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
  s.box[2] = 2;
  s.swizzle = MapSwizzle::b128;
  return s;
}

}  // namespace

cudaError_t gemm_swiglu(const GemmSwigluArgs& a, cudaStream_t stream) {
  if (!valid(a)) return cudaErrorInvalidValue;
  if (a.rows.rows == 0) return cudaSuccess;
  const int sms = a.sms > 0 ? a.sms : sm_count();
  if (sms == 0) return cudaErrorNoDevice;

  CUtensorMap x, w, scale;
  const auto rows = static_cast<std::uint64_t>(a.rows.rows), k = static_cast<std::uint64_t>(a.k);
  cudaError_t e =
      encode_tensor_map(matrix_map(a.x, MapType::u8, rows, k, static_cast<std::uint64_t>(a.x_stride),
                                   fused::kBm, fused::kStepK, MapSwizzle::b128),
                        &x);
  if (e == cudaSuccess) e = encode_tensor_map(weight_map(a), &w);
  if (e == cudaSuccess) {
    e = encode_tensor_map(
        matrix_map(a.x_scale, MapType::f32, static_cast<std::uint64_t>(blocks(a.k, 128)), rows,
                   static_cast<std::uint64_t>(a.x_scale_stride) * 4, 1, fused::kScaleBox, MapSwizzle::none),
        &scale);
  }
  if (e != cudaSuccess) return e;

  fused::SwigluParams p = {};
  p.gemm.layout = a.rows.layout;
  p.gemm.experts = a.rows.experts;
  p.gemm.counts = a.rows.counts;
  p.gemm.rows = static_cast<int>(a.rows.rows);
  p.gemm.max_m = a.rows.max_m;
  p.gemm.n = a.n;
  p.gemm.k_blocks = static_cast<int>(blocks(a.k, 128));
  p.gemm.w_scale = a.w_scale;
  p.gemm.w_scale_stride = a.w_scale_stride;
  p.gemm.cluster = p.gemm.split = 1;
  p.gemm.group_m = 2048 / fused::kBm;
  p.codes = a.codes;
  p.scale = a.scale;
  p.scale_stride = a.scale_stride;
  p.out = static_cast<__nv_bfloat16*>(a.out);
  p.out_stride = a.out_stride;

  e = cudaFuncSetAttribute(fused::swiglu_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           fused::kSmemBytes);
  if (e != cudaSuccess) return e;
  const std::int64_t tiles = most_row_blocks(a.rows, fused::kBm) * (a.n / fused::kBn);
  return launch(fused::swiglu_kernel, dim3(static_cast<unsigned>(tiles < sms ? tiles : sms)),
                dim3(fused::kThreads), fused::kSmemBytes, stream, x, w, scale, p);
}

}  // namespace trireme::cuda
