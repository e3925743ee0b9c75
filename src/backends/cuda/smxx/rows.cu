#include "backends/cuda/smxx/rows.h"

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kThreads = 256, kUnroll = 4;
constexpr uint32_t kNans = 0x7fc07fc0u;

// Item i of a matrix of row_vectors vectors of 8 values a row.
struct Place {
  int64_t row;
  int at, valid;  // first column, values from there to the end of the row (or none)
};
__device__ __forceinline__ Place place_of(uint32_t item, uint32_t items, uint32_t row_vectors, int64_t n) {
  const uint32_t row = item / row_vectors;
  const int at = static_cast<int>(item - row * row_vectors) * 8;
  return {row, at, item < items ? static_cast<int>(n) - at : 0};
}

template <bool Wide>
__device__ __forceinline__ uint4 from_f32(const float* p, int valid) {
  float f[8];
  if constexpr (Wide) {
    const uint4 u = load16(p), v = load16(p + 4);
    f[0] = __uint_as_float(u.x), f[1] = __uint_as_float(u.y), f[2] = __uint_as_float(u.z);
    f[3] = __uint_as_float(u.w), f[4] = __uint_as_float(v.x), f[5] = __uint_as_float(v.y);
    f[6] = __uint_as_float(v.z), f[7] = __uint_as_float(v.w);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) f[i] = i < valid ? static_cast<const volatile float*>(p)[i] : 0.0f;
  }
  return pack8(f);
}

template <bool Wide>
__global__ __launch_bounds__(kThreads) void gather_kernel(GatherArgs a, uint32_t row_vectors) {
  pdl_launch();
  pdl_wait();
  const uint32_t items = static_cast<uint32_t>(a.picked) * row_vectors;
  const uint32_t first = blockIdx.x * kThreads * kUnroll + threadIdx.x;
  uint4 x[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const Place p = place_of(first + u * kThreads, items, row_vectors, a.n);
    x[u] = make_uint4(kNans, kNans, kNans, kNans);
    if (p.valid <= 0) continue;
    const int64_t from = static_cast<const volatile int32_t*>(a.rows)[p.row];
    if (from < 0 || from >= a.x_rows) continue;
    const int64_t at = from * a.x_stride + p.at;
    x[u] = a.x_f32 ? from_f32<Wide>(static_cast<const float*>(a.x) + at, p.valid)
                   : load8<Wide>(static_cast<const uint16_t*>(a.x) + at, p.valid);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const Place p = place_of(first + u * kThreads, items, row_vectors, a.n);
    store8<Wide>(a.out + p.row * a.out_stride + p.at, x[u], p.valid);
  }
}

template <bool Wide>
__global__ __launch_bounds__(kThreads) void add_kernel(AddArgs a, uint32_t row_vectors) {
  pdl_launch();
  pdl_wait();
  const uint32_t items = static_cast<uint32_t>(a.rows) * row_vectors;
  const uint32_t first = blockIdx.x * kThreads * kUnroll + threadIdx.x;
  uint4 x[kUnroll], y[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const Place p = place_of(first + u * kThreads, items, row_vectors, a.n);
    x[u] = load8<Wide>(a.x + p.row * a.x_stride + p.at, p.valid);
    y[u] = load8<Wide>(a.y + p.row * a.y_stride + p.at, p.valid);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const Place p = place_of(first + u * kThreads, items, row_vectors, a.n);
    float f[8], g[8];
    unpack8(x[u], f);
    unpack8(y[u], g);
#pragma unroll
    for (int i = 0; i < 8; ++i) f[i] += g[i];
    store8<Wide>(a.x + p.row * a.x_stride + p.at, pack8(f), p.valid);
  }
}

template <class Word>
__device__ void copy_words(char* to, const char* from, int64_t bytes) {
  for (int64_t i = threadIdx.x; i < bytes / static_cast<int64_t>(sizeof(Word)); i += kThreads)
    reinterpret_cast<Word*>(to)[i] = reinterpret_cast<const volatile Word*>(from)[i];
}
template <>
__device__ void copy_words<uint4>(char* to, const char* from, int64_t bytes) {
  for (int64_t i = threadIdx.x; i < bytes / 16; i += kThreads) store16(to + i * 16, load16(from + i * 16));
}

__global__ __launch_bounds__(kThreads) void copy_blocks_kernel(const __grid_constant__ BlockCopyArgs a) {
  pdl_launch();
  pdl_wait();
  const BlockCopyArgs::Copy& c = a.copy[blockIdx.x];
  const BlockCopyArgs::Layer& l = a.layer[blockIdx.y];
  const int64_t block = l.token_bytes * a.block_tokens, bytes = l.token_bytes * c.tokens;
  char* const to = l.data + c.to * block;
  const char* const from = l.data + c.from * block;
  if ((reinterpret_cast<uintptr_t>(l.data) | static_cast<uintptr_t>(l.token_bytes)) % 16 == 0)
    copy_words<uint4>(to, from, bytes);
  else
    copy_words<uint16_t>(to, from, bytes);
}

// Blocks for `rows` rows of row_vectors vectors; negative if there are more than the kernels count.
int64_t blocks_for(int64_t rows, int64_t row_vectors) {
  if (rows * row_vectors > INT32_MAX) return -1;
  return (rows * row_vectors + kThreads * kUnroll - 1) / (kThreads * kUnroll);
}

}  // namespace

cudaError_t gather(const GatherArgs& a, cudaStream_t stream) {
  const int64_t row_vectors = (a.n + 7) / 8, blocks = blocks_for(a.picked, row_vectors);
  if (blocks < 0) return cudaErrorInvalidValue;
  const bool fits = wide(a.x, a.x_stride, a.x_f32 ? 4 : 2, a.n) && wide(a.out, a.out_stride, 2, a.n);
  return launch(fits ? gather_kernel<true> : gather_kernel<false>, static_cast<unsigned>(blocks), kThreads, 0,
                stream, a, static_cast<uint32_t>(row_vectors));
}

cudaError_t add(const AddArgs& a, cudaStream_t stream) {
  const int64_t row_vectors = (a.n + 7) / 8, blocks = blocks_for(a.rows, row_vectors);
  if (blocks < 0) return cudaErrorInvalidValue;
  const bool fits = wide(a.x, a.x_stride, 2, a.n) && wide(a.y, a.y_stride, 2, a.n);
  return launch(fits ? add_kernel<true> : add_kernel<false>, static_cast<unsigned>(blocks), kThreads, 0,
                stream, a, static_cast<uint32_t>(row_vectors));
}

cudaError_t copy_blocks(const BlockCopyArgs& a, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(a.copies), static_cast<unsigned>(a.layers));
  return launch(copy_blocks_kernel, grid, kThreads, 0, stream, a);
}

}  // namespace trireme::cuda::smxx
