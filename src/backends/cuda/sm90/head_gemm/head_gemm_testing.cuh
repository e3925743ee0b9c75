#pragma once
// Random operands of the products of one matrix a head and a slow reference, for their test and benchmark.

#include <random>

#include "backends/cuda/sm90/gemm/gemm_testing.cuh"
#include "backends/cuda/sm90/head_gemm/head_gemm.h"

namespace trireme::cuda::head_testing {

using gemm_testing::DeviceBuffer;
using gemm_testing::must;
using Bf16 = __nv_bfloat16;

static __global__ void fill_bf16(Bf16* p, std::size_t count, std::uint64_t seed, float sigma) {
  for (std::size_t i = blockIdx.x * std::size_t{256} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * 256)
    p[i] = __float2bfloat16(gemm_testing::hash_normal(seed, i) * sigma);
}

// A product with x and the output strided as the model has them: W_UK reads 128 of each head's 192 query
// values, and what lies between is NaN.
class Operands {
 public:
  // copies: of the weights, one after the other.
  explicit Operands(const HeadProblem& s, std::uint64_t seed, int copies = 1)
      : shape(s),
        x_head_stride(s.k == 128 ? 192 : s.k),
        x(size(s.tokens) * size(s.heads) * size(x_head_stride)),
        w(s.fp8 ? 0 : size(copies) * size(s.heads) * size(s.n) * size(s.k)),
        codes(s.fp8 ? size(copies) * size(s.heads) * size(s.n) * size(s.k) : 0),
        w_scale(size(s.heads) * size(s.n / 128) * size(scale_stride())),
        out(size(s.tokens) * size(s.heads) * size(s.n)) {
    fill_bf16<<<1024, 256>>>(x.get(), x.bytes() / 2, seed, 1.0f);
    fill_bf16<<<1024, 256>>>(w.get(), w.bytes() / 2, seed + 50, 1.0f);
    gemm_testing::fill_normal<__nv_fp8_e4m3><<<1024, 256>>>(codes.get(), codes.bytes(), seed + 100, 100.0f);
    gemm_testing::fill_scales<<<64, 256>>>(w_scale.get(), w_scale.bytes() / 4, seed + 150);
  }
  HeadGemmArgs args(HeadTile tile = {}, int copy = 0) const {
    HeadGemmArgs a;
    a.x = x.get(), a.x_head_stride = x_head_stride, a.x_token_stride = x_head_stride * shape.heads;
    const std::size_t skip = size(copy) * size(shape.heads) * size(shape.n) * size(shape.k);
    a.w = shape.fp8 ? static_cast<const void*>(codes.get() + skip) : w.get() + skip;
    a.w_scale = shape.fp8 ? w_scale.get() : nullptr, a.w_scale_stride = scale_stride();
    a.out = out.get(), a.out_head_stride = shape.n;
    a.out_token_stride = std::int64_t{shape.n} * shape.heads;
    a.shape = shape, a.tile = tile;
    return a;
  }
  int scale_stride() const { return (shape.k / 128 + 3) / 4 * 4; }

  const HeadProblem shape;
  const std::int64_t x_head_stride;
  DeviceBuffer<Bf16> x, w;
  DeviceBuffer<__nv_fp8_e4m3> codes;
  DeviceBuffer<float> w_scale;
  DeviceBuffer<Bf16> out;

 private:
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
};

static __global__ void poison_between(Bf16* x, int stride, int k) {
  for (int i = k + static_cast<int>(threadIdx.x); i < stride; i += 32)
    x[blockIdx.x * static_cast<std::int64_t>(stride) + i] = __float2bfloat16(__int_as_float(0x7FC00000));
}

// In float64, of e4m3 codes of x where the weights are codes.
static __global__ void head_reference(HeadGemmArgs a, float* ref) {
  const HeadProblem& s = a.shape;
  const int c = static_cast<int>(blockIdx.x * 128 + threadIdx.x), h = static_cast<int>(blockIdx.y);
  const std::int64_t t = blockIdx.z;
  const Bf16* x = static_cast<const Bf16*>(a.x) + t * a.x_token_stride + h * a.x_head_stride;
  double sum = 0;
  for (int b = 0; b < s.k; b += 128) {
    float most = 0;
    for (int i = b; i < b + 128; ++i) most = fmaxf(most, fabsf(__bfloat162float(x[i])));
    const float scale = most / 448.0f;
    double part = 0;
    for (int i = b; i < b + 128; ++i) {
      const std::int64_t row_major = (static_cast<std::int64_t>(h) * s.n + c) * s.k + i;
      float value = __bfloat162float(x[i]), weight;
      if (s.fp8) {
        value = static_cast<float>(static_cast<__nv_fp8_e4m3>(value / scale));
        weight = static_cast<float>(static_cast<const __nv_fp8_e4m3*>(a.w)[row_major]);
      } else {
        const std::int64_t column_major = (static_cast<std::int64_t>(h) * s.k + i) * s.n + c;
        weight = __bfloat162float(static_cast<const Bf16*>(a.w)[s.k == 128 ? column_major : row_major]);
      }
      part += static_cast<double>(value) * static_cast<double>(weight);
    }
    if (s.fp8) {
      const float of_w = a.w_scale[(h * (s.n / 128) + c / 128) * a.w_scale_stride + b / 128];
      part *= static_cast<double>(scale) * static_cast<double>(of_w);
    }
    sum += part;
  }
  ref[(t * s.heads + h) * s.n + c] = static_cast<float>(sum);
}

}  // namespace trireme::cuda::head_testing
