#include "backends/cuda/smxx/moe_route.h"

#include <type_traits>

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kOrderThreads = 1024, kMoveThreads = 512, kCombineThreads = 256;
constexpr int kScaleRows = 8192;  // of one column of scales that a block puts together
constexpr int kTogether = 8;      // rows, or pairs, that are loaded before the first is used

// The 4 experts at i, which is divisible by 4; -1 past the end.
__device__ __forceinline__ void four(int (&e)[4], const OrderArgs& a, int64_t i, bool aligned) {
  if (aligned && i + 4 <= a.pairs) {
    uint4 v;  // through L1: read twice, and by several blocks of a multiprocessor
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(a.expert + i));
    e[0] = static_cast<int>(v.x), e[1] = static_cast<int>(v.y);
    e[2] = static_cast<int>(v.z), e[3] = static_cast<int>(v.w);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j)
    e[j] = i + j < a.pairs ? static_cast<const volatile int32_t*>(a.expert)[i + j] : -1;
}

// The sum over the threads before this one, and over all.
__device__ __forceinline__ int2 block_scan(int v) {
  __shared__ int of_warp[kOrderThreads / 32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int upto = v;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, upto, d);
    if (lane >= d) upto += below;
  }
  if (lane == 31) of_warp[warp] = upto;
  __syncthreads();
  int mine = lane < static_cast<int>(blockDim.x / 32) ? of_warp[lane] : 0, total = mine;
  int before = lane < warp ? mine : 0;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, d);
    before += __shfl_xor_sync(0xffffffffu, before, d);
  }
  __syncthreads();
  return make_int2(before + upto - v, total);
}

// A block an expert. Every block reads all pairs, a warp `each` of them in a row: it counts those of lower
// experts, where its own rows begin, and places its own by a scan, so that the order depends on nothing but
// the pairs.
__global__ __launch_bounds__(kOrderThreads, 2) void order_kernel(OrderArgs a, int64_t each) {
  pdl_launch();
  pdl_wait();
  const int own = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x % 32);
  const bool aligned = reinterpret_cast<uintptr_t>(a.expert) % 16 == 0;
  const int64_t begin = threadIdx.x / 32 * each, end = min(begin + each, a.pairs);
  int lower = 0, equal = 0, step = 0;
  uint32_t hits = 0;  // bit s: the warp's step s has pairs of this expert; the last bit stands for all later
#pragma unroll 4
  for (int64_t at = begin; at < end; at += 128, ++step) {
    int e[4];
    const int others = equal;
    four(e, a, at + lane * 4, aligned);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      lower += static_cast<uint32_t>(e[j]) < static_cast<uint32_t>(own);  // a negative one is not
      equal += e[j] == own;
    }
    if (__any_sync(0xffffffffu, equal != others)) hits |= 1u << min(step, 31);
    if (own != 0) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t i = at + lane * 4 + j;
      if (i < a.pairs && (e[j] < 0 || e[j] >= a.experts)) a.row_of[i] = -1;
    }
  }
  const int start = block_scan(lower).y;
  const int2 found = block_scan(equal);
  if (threadIdx.x == 0) a.expert_end[own] = start + found.y;
  if (hits == 0) return;
  int row = start + __shfl_sync(0xffffffffu, found.x, 0);  // of the warp's next pair
  step = 0;
  for (int64_t at = begin; at < end; at += 128, ++step) {
    if ((hits >> min(step, 31) & 1) == 0) continue;
    int e[4];
    four(e, a, at + lane * 4, aligned);
    int before = 0, all = 0, mine = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t of_lanes = __ballot_sync(0xffffffffu, e[j] == own);
      before += __popc(of_lanes & ((1u << lane) - 1));
      all += __popc(of_lanes);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (e[j] == own) a.row_of[at + lane * 4 + j] = row + before + mine++;
    row += all;
  }
}

// One row of `words` words to each of top_k rows. What comes first is loaded before row_of is there.
template <class Word>
__device__ __forceinline__ Word word(const char* from, int i) {
  if constexpr (sizeof(Word) == 16)
    return load16(from + i * 16);
  else
    return reinterpret_cast<const volatile Word*>(from)[i];
}
template <class Word>
__device__ __forceinline__ void spread(const char* from, char* to, int64_t stride, const int32_t* row_of,
                                       int top_k, int words, Word first) {
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
    const Word v = i == static_cast<int>(threadIdx.x) ? first : word<Word>(from, i);
#pragma unroll 4
    for (int j = 0; j < top_k; ++j)
      if (row_of[j] >= 0) reinterpret_cast<Word*>(to + row_of[j] * stride)[i] = v;
  }
}

// Scales [first, first + kScaleRows) of block column `b`: put together in shared memory, since each token's
// alone would be scattered over as many sectors.
__device__ __forceinline__ void move_scales(const ScatterArgs& a, int b, int first) {
  __shared__ float column[kScaleRows];
  const auto used = static_cast<int>(*static_cast<const volatile int32_t*>(a.rows_used));
  const int count = min(used - first, kScaleRows);
  if (count <= 0) return;
  const float* const from = a.scale + b * a.scale_stride;
  const auto pairs = static_cast<uint32_t>(a.tokens * a.top_k), top_k = static_cast<uint32_t>(a.top_k);
  for (uint32_t begin = threadIdx.x; begin < pairs; begin += kTogether * blockDim.x) {
    int row[kTogether];
    float scale[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const uint32_t i = begin + j * blockDim.x;
      row[j] = -1;
      if (i >= pairs) continue;
      row[j] = static_cast<const volatile int32_t*>(a.row_of)[i] - first;
      scale[j] = static_cast<const volatile float*>(from)[i / top_k];
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j)
      if (row[j] >= 0 && row[j] < count) column[row[j]] = scale[j];
  }
  __syncthreads();
  float* const to = a.rows_q.scale + b * a.rows_q.scale_stride + first;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) to[i] = column[i];
}

// Blocks for the scales, `scale_blocks` of them, then one a token.
template <bool Wide>
__global__ __launch_bounds__(kMoveThreads, 4) void scatter_kernel(ScatterArgs a, int scale_blocks) {
  __shared__ int32_t row_of[kMaxTopK];
  pdl_launch();
  pdl_wait();
  if (static_cast<int>(blockIdx.x) < scale_blocks) {
    const int columns = static_cast<int>((a.n + 127) / 128);
    move_scales(a, static_cast<int>(blockIdx.x) % columns,
                static_cast<int>(blockIdx.x) / columns * kScaleRows);
    return;
  }
  using Pair = std::conditional_t<Wide, uint4, uint16_t>;
  using Code = std::conditional_t<Wide, uint4, uint8_t>;
  const int64_t token = static_cast<int>(blockIdx.x) - scale_blocks;
  const int thread = static_cast<int>(threadIdx.x), n = static_cast<int>(a.n);
  const int pairs = a.x == nullptr ? 0 : Wide ? n / 8 : n;
  const int codes = a.codes == nullptr ? 0 : Wide ? n / 16 : n;
  const auto* const from = reinterpret_cast<const char*>(a.x + token * a.x_stride);
  const auto* const codes_from = reinterpret_cast<const char*>(a.codes + token * a.n);
  Pair pair{};
  Code code{};
  if (thread < a.top_k) {
    const int64_t choice = token * a.top_k + thread;
    const int32_t row = static_cast<const volatile int32_t*>(a.row_of)[choice];
    row_of[thread] = row;
    if (a.row_weight != nullptr && row >= 0)
      a.row_weight[row] = static_cast<const volatile float*>(a.weight)[choice];
  }
  if (thread < pairs) pair = word<Pair>(from, thread);
  if (thread < codes) code = word<Code>(codes_from, thread);
  __syncthreads();
  if (pairs > 0)
    spread(from, reinterpret_cast<char*>(a.rows), a.rows_stride * 2, row_of, a.top_k, pairs, pair);
  if (codes > 0)
    spread(codes_from, reinterpret_cast<char*>(a.rows_q.codes), a.n, row_of, a.top_k, codes, code);
}

template <bool Wide>
__global__ __launch_bounds__(kCombineThreads) void combine_kernel(CombineArgs a) {
  __shared__ int32_t row_of[kMaxTopK];
  __shared__ float weight[kMaxTopK];
  pdl_launch();
  pdl_wait();
  const int64_t token = blockIdx.x;
  if (static_cast<int>(threadIdx.x) < a.top_k) {
    const int64_t pair = token * a.top_k + threadIdx.x;
    row_of[threadIdx.x] = static_cast<const volatile int32_t*>(a.row_of)[pair];
    weight[threadIdx.x] = a.weight == nullptr ? 1.0f : static_cast<const volatile float*>(a.weight)[pair];
  }
  __syncthreads();
  const int at = static_cast<int>(blockIdx.y * kCombineThreads + threadIdx.x) * 8;
  const int valid = static_cast<int>(a.n) - at;
  uint16_t* const out = a.out + token * a.out_stride + at;
  float sum[8] = {};
  if (a.accumulate) unpack8(load8<Wide>(out, valid), sum);
  for (int begin = 0; begin < a.top_k; begin += kTogether) {
    uint4 v[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int row = begin + j < a.top_k ? row_of[begin + j] : -1;
      v[j] = load8<Wide>(a.rows + row * a.rows_stride + at, row >= 0 ? valid : 0);
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (begin + j >= a.top_k || row_of[begin + j] < 0) continue;
      float f[8];
      unpack8(v[j], f);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = fmaf(weight[begin + j], f[i], sum[i]);
    }
  }
  store8<Wide>(out, pack8(sum), valid);
}

unsigned threads_for(int64_t items, int most) {
  const int64_t whole = (items + 31) / 32 * 32;
  return static_cast<unsigned>(whole < most ? whole : most);
}

}  // namespace

cudaError_t order(const OrderArgs& a, cudaStream_t stream) {
  const unsigned threads = threads_for(a.pairs < 4 ? 1 : a.pairs / 4, kOrderThreads);
  const int64_t warps = threads / 32, each = (a.pairs + warps - 1) / warps;
  return launch(order_kernel, static_cast<unsigned>(a.experts), threads, 0, stream, a,
                (each + 127) / 128 * 128);
}

cudaError_t scatter(const ScatterArgs& a, cudaStream_t stream) {
  if (a.top_k > kMaxTopK) return cudaErrorInvalidValue;
  const bool fits = wide(a.x, a.x_stride, 2, a.n) &&
                    wide(a.x == nullptr ? nullptr : a.rows, a.rows_stride, 2, a.n) &&
                    wide(a.codes, a.n, 1, a.n) && wide(a.rows_q.codes, a.n, 1, a.n);
  const int64_t items = a.x != nullptr ? a.n / 8 : a.n / 16;
  const int64_t parts = (a.tokens * a.top_k + kScaleRows - 1) / kScaleRows;
  const int64_t scale_blocks = a.codes == nullptr ? 0 : (a.n + 127) / 128 * parts;
  return launch(
      fits ? scatter_kernel<true> : scatter_kernel<false>, static_cast<unsigned>(a.tokens + scale_blocks),
      threads_for(items < 256 ? 256 : items, kMoveThreads), 0, stream, a, static_cast<int>(scale_blocks));
}

cudaError_t combine(const CombineArgs& a, cudaStream_t stream) {
  if (a.top_k > kMaxTopK) return cudaErrorInvalidValue;
  const bool fits = wide(a.rows, a.rows_stride, 2, a.n) && wide(a.out, a.out_stride, 2, a.n);
  const int64_t columns = ((a.n + 7) / 8 + kCombineThreads - 1) / kCombineThreads;
  const dim3 grid(static_cast<unsigned>(a.tokens), static_cast<unsigned>(columns));
  return launch(fits ? combine_kernel<true> : combine_kernel<false>, grid, kCombineThreads, 0, stream, a);
}

}  // namespace trireme::cuda::smxx
