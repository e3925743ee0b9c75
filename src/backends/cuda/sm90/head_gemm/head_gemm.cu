#include "backends/cuda/sm90/head_gemm/head_gemm.h"

#include <algorithm>

#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/head_gemm/kernel.cuh"
#include "backends/cuda/smxx/choose.h"

namespace trireme::cuda {
namespace {

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
bool stride8(std::int64_t stride) { return stride > 0 && stride % 8 == 0; }

bool valid(const HeadGemmArgs& a) {
  const HeadProblem& s = a.shape;
  if (!head_gemm_takes(s.n, s.k) || s.heads < 1 || s.heads > 65535 || s.tokens < 0 ||
      s.tokens > (std::int64_t{1} << 30))
    return false;
  const HeadCodes& c = a.codes;
  if (c.rows != nullptr)
    return s.k == 128 && !s.fp8 && c.row_bytes >= s.n + 128 && c.row_bytes % 16 == 0 && c.scale != nullptr &&
           c.rope != nullptr && c.bound != nullptr && c.latent_scale > 0 && aligned16(a.x) &&
           aligned16(a.w) && aligned16(c.rows) && aligned16(c.rope) && stride8(a.x_head_stride) &&
           stride8(a.x_token_stride);
  if (!aligned16(a.x) || !aligned16(a.w) || !aligned16(a.out)) return false;
  if (s.fp8 && (a.w_scale == nullptr || a.w_scale_stride < s.k / 128)) return false;
  return stride8(a.x_head_stride) && stride8(a.x_token_stride) && stride8(a.out_head_stride) &&
         stride8(a.out_token_stride);
}

bool valid(const HeadTile& t, int n) {
  const int narrowest = t.rows == 128 ? 128 : 64;
  return (t.rows == 64 || t.rows == 128) && t.parts > 0 && n % t.parts == 0 && n / t.parts % narrowest == 0 &&
         t.chunks > 0 && t.chunks <= 65535;
}

// BF16 [tokens, heads, width], copied in boxes of 64 values of `tokens` rows.
cudaError_t token_map(const void* base, const HeadProblem& s, int width, std::int64_t head_stride,
                      std::int64_t token_stride, int rows, CUtensorMap* map) {
  TensorMapSpec spec;
  spec.base = base;
  spec.type = MapType::bf16;
  spec.rank = 3;
  spec.dims[0] = static_cast<std::uint64_t>(width);
  spec.dims[1] = static_cast<std::uint64_t>(s.heads);
  spec.dims[2] = static_cast<std::uint64_t>(s.tokens);
  spec.stride_bytes[0] = static_cast<std::uint64_t>(head_stride) * 2;
  spec.stride_bytes[1] = static_cast<std::uint64_t>(token_stride) * 2;
  spec.box[0] = 64;
  spec.box[1] = 1;
  spec.box[2] = static_cast<std::uint32_t>(rows);
  return encode_tensor_map(spec, map);
}

// The codes of HeadCodes, copied 64 of 16 tokens at a time.
cudaError_t code_map(const HeadCodes& c, const HeadProblem& s, CUtensorMap* map) {
  TensorMapSpec spec;
  spec.base = c.rows;
  spec.type = MapType::u8;
  spec.rank = 3;
  spec.dims[0] = static_cast<std::uint64_t>(s.n);
  spec.dims[1] = static_cast<std::uint64_t>(s.heads);
  spec.dims[2] = static_cast<std::uint64_t>(s.tokens);
  spec.stride_bytes[0] = static_cast<std::uint64_t>(c.row_bytes);
  spec.stride_bytes[1] = static_cast<std::uint64_t>(s.heads * c.row_bytes);
  spec.box[0] = 64;
  spec.box[1] = 1;
  spec.box[2] = 16;
  spec.swizzle = MapSwizzle::b64;
  return encode_tensor_map(spec, map);
}

cudaError_t weight_map(const HeadGemmArgs& a, int rows, int columns, CUtensorMap* map) {
  const HeadProblem& s = a.shape;
  const auto heads = static_cast<std::uint64_t>(s.heads), n = static_cast<std::uint64_t>(s.n),
             k = static_cast<std::uint64_t>(s.k);
  if (s.k == 128 && !s.fp8)
    return encode_tensor_map(matrix_map(a.w, MapType::bf16, heads * k, n, n * 2, 128, 64, MapSwizzle::b128),
                             map);
  // Into the latent a box is what a warpgroup multiplies at a time.
  const auto box = static_cast<std::uint32_t>(s.k == 128 ? rows : columns);
  return encode_tensor_map(matrix_map(a.w, s.fp8 ? MapType::u8 : MapType::bf16, heads * n, k,
                                      k * (s.fp8 ? 1 : 2), box, s.fp8 ? 128 : 64, MapSwizzle::b128),
                           map);
}

}  // namespace

cudaError_t head_gemm(const HeadGemmArgs& a, cudaStream_t stream) {
  const HeadProblem& s = a.shape;
  if (!valid(a)) return cudaErrorInvalidValue;
  if (s.tokens == 0) return cudaSuccess;
  const HeadTile t =
      a.tile.rows != 0 ? a.tile : choose_head_tile(s, static_cast<int>(smxx::multiprocessors()));
  if (!valid(t, s.n)) return cudaErrorInvalidValue;
  head::Launch l = {};
  l.stream = stream;
  l.params.tokens = static_cast<int>(s.tokens);
  l.params.heads = s.heads;
  l.params.n = s.n;
  l.params.columns = s.n / t.parts;
  l.params.w_scale = a.w_scale;
  l.params.w_scale_stride = a.w_scale_stride;
  const std::int64_t tiles = (s.tokens + t.rows - 1) / t.rows;
  l.grid =
      dim3(static_cast<unsigned>(t.parts), static_cast<unsigned>(std::min<std::int64_t>(t.chunks, tiles)),
           static_cast<unsigned>(s.heads));
  cudaError_t e = token_map(a.x, s, s.k, a.x_head_stride, a.x_token_stride, t.rows, &l.x);
  const HeadCodes& c = a.codes;
  if (e == cudaSuccess)
    e = c.rows != nullptr ? code_map(c, s, &l.out)
                          : token_map(a.out, s, s.n, a.out_head_stride, a.out_token_stride, 16, &l.out);
  if (e == cudaSuccess) e = weight_map(a, t.rows, l.params.columns, &l.w);
  if (e != cudaSuccess) return e;
  if (c.rows != nullptr) {
    l.params.codes = {
        static_cast<unsigned char*>(c.rows),       c.row_bytes,     c.scale,          c.bound,
        static_cast<const std::uint16_t*>(c.rope), a.x_head_stride, a.x_token_stride, c.latent_scale};
    return head::start_codes(l, t.rows);
  }
  const bool up = s.k == 128;
  return s.fp8 ? head::start_fp8(l, up, t.rows) : head::start_bf16(l, up, t.rows);
}

}  // namespace trireme::cuda
