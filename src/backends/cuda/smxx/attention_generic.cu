#include "backends/cuda/smxx/attention_generic.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

namespace trireme::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kTile = 64;  // keys a pass: one cache block
constexpr int kAtOnce = 4;  // keys of one warp whose loads are in flight together

__device__ float2 pair(const __nv_bfloat16* p) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}
__device__ float2 pair(const __nv_fp8_e4m3* p) {
  return static_cast<float2>(*reinterpret_cast<const __nv_fp8x2_e4m3*>(p));
}
__device__ const __nv_bfloat16* bf16(const void* p) { return static_cast<const __nv_bfloat16*>(p); }

__device__ float warp_sum(float x) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  return x;
}
__device__ float warp_max(float x) {
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
  return x;
}

// The sequence whose rows hold row `r`: the last s with start[s] <= r, or -1 past the last row.
__device__ int sequence_of(const std::int32_t* start, int seqs, int r) {
  if (r >= start[seqs]) return -1;
  int low = 0, high = seqs;  // start[low] <= r < start[high]
  while (high - low > 1) {
    const int mid = (low + high) / 2;
    (start[mid] <= r ? low : high) = mid;
  }
  return low;
}

// Where keys and values come from. A source gives the pair (2i, 2i + 1) of a key's `dk` elements and of its
// `dv` values; `key` counts from the start of the tile that enter() was called for.

struct MlaBf16 {
  const __nv_bfloat16* cache;
  int latent, rope;
  __device__ const __nv_bfloat16* enter(const PagedBatch& b, int seq, int first_key, int) const {
    return cache + static_cast<std::int64_t>(b.block_table[seq * b.max_blocks + first_key / kTile]) * kTile *
                       (latent + rope);
  }
  __device__ float2 key(const __nv_bfloat16* tile, int key, int i) const {
    return pair(tile + key * (latent + rope) + i);
  }
  __device__ float2 value(const __nv_bfloat16* tile, int key, int i) const {
    return pair(tile + key * (latent + rope) + i);
  }
};

struct MlaFp8 {
  const char* cache;
  int latent, rope;
  float scale;  // of the codes
  __device__ int bytes() const { return latent + 2 * rope; }
  __device__ const char* enter(const PagedBatch& b, int seq, int first_key, int) const {
    return cache +
           static_cast<std::int64_t>(b.block_table[seq * b.max_blocks + first_key / kTile]) * kTile * bytes();
  }
  __device__ float2 value(const char* tile, int key, int i) const {
    const float2 c = pair(reinterpret_cast<const __nv_fp8_e4m3*>(tile + key * bytes() + i));
    return {c.x * scale, c.y * scale};
  }
  __device__ float2 key(const char* tile, int k, int i) const {
    if (i < latent) return value(tile, k, i);
    return pair(bf16(tile + k * bytes() + latent) + (i - latent));
  }
};

struct Expanded {
  const __nv_bfloat16 *kv, *k_rope;
  std::int64_t kv_stride, rope_stride;
  const std::int32_t* k_start;
  int heads, nope;
  struct Tile {
    const __nv_bfloat16 *kv, *rope;
  };
  __device__ Tile enter(const PagedBatch&, int seq, int first_key, int head) const {
    const std::int64_t row = k_start[seq] + first_key;
    return {kv + (row * heads + head) * kv_stride, k_rope + row * rope_stride};
  }
  __device__ float2 key(Tile t, int k, int i) const {
    return i < nope ? pair(t.kv + k * heads * kv_stride + i) : pair(t.rope + k * rope_stride + (i - nope));
  }
  __device__ float2 value(Tile t, int k, int i) const {
    return pair(t.kv + k * heads * kv_stride + nope + i);
  }
};

struct Gqa {
  const __nv_bfloat16* cache;
  int kv_heads, dim, group;
  __device__ const __nv_bfloat16* enter(const PagedBatch& b, int seq, int first_key, int head) const {
    return cache +
           static_cast<std::int64_t>(b.block_table[seq * b.max_blocks + first_key / kTile]) * kTile * 2 *
               kv_heads * dim +
           head / group * dim;
  }
  __device__ float2 key(const __nv_bfloat16* t, int k, int i) const {
    return pair(t + k * 2 * kv_heads * dim + i);
  }
  __device__ float2 value(const __nv_bfloat16* t, int k, int i) const {
    return pair(t + (k * 2 + 1) * kv_heads * dim + i);
  }
};

// What one query row is made of: up to two pieces, first q0 of n0 elements.
struct Query {
  const __nv_bfloat16 *q0, *q1;
  std::int64_t stride0, stride1;
  int n0, n1, v, heads, window;
  float scale_log2;  // the scale, times log2(e)
  __nv_bfloat16* out;
  std::int64_t out_stride;
};

// One block a (token, head). A tile of keys at a time: warps divide its keys for the scores, then threads
// divide the values' columns for the sums.
template <class Source, int kPairs>
__global__ void __launch_bounds__(kThreads) attend(Query a, PagedBatch batch, Source source) {
  extern __shared__ float shared[];
  float* q = shared;                // [n0 + n1]
  float* p = shared + a.n0 + a.n1;  // [kTile]: scores, then weights
  const int row = blockIdx.x, token = row / a.heads, head = row % a.heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int seq = sequence_of(batch.q_start, batch.seqs, token);
  __nv_bfloat16* out = a.out + row * a.out_stride;
  const int last = seq < 0 ? -1 : batch.context_len[seq] - (batch.q_start[seq + 1] - token);
  if (last < 0) {
    for (int i = threadIdx.x; i < a.v; i += kThreads) out[i] = __float2bfloat16(0.0f);
    return;
  }
  for (int i = threadIdx.x; i < a.n0 + a.n1; i += kThreads)
    q[i] = a.scale_log2 *
           __bfloat162float(i < a.n0 ? a.q0[row * a.stride0 + i] : a.q1[row * a.stride1 + (i - a.n0)]);
  const int first = a.window > 0 ? max(0, last - a.window + 1) : 0;

  float2 sum[kPairs] = {};
  float top = -INFINITY, weight = 0;
  for (int begin = first / kTile * kTile; begin <= last; begin += kTile) {
    const auto tile = source.enter(batch, seq, begin, head);
    const int from = max(first - begin, 0), until = min(last + 1 - begin, kTile);
    __syncthreads();  // q is there; p is no longer read
    for (int k = warp; k < kTile; k += kWarps * kAtOnce) {
      float dot[kAtOnce] = {};
      for (int i = 2 * lane; i < a.n0 + a.n1; i += 64) {
        const float q0 = q[i], q1 = q[i + 1];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const int key = k + j * kWarps;
          if (key < from || key >= until) continue;
          const float2 x = source.key(tile, key, i);
          dot[j] += q0 * x.x + q1 * x.y;
        }
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int key = k + j * kWarps;
        const float s = warp_sum(dot[j]);
        if (lane == 0) p[key] = key >= from && key < until ? s : -INFINITY;
      }
    }
    __syncthreads();
    // Each warp finds the same maximum and sum by itself; at least one key of the tile is seen.
    const float s0 = p[lane], s1 = p[lane + 32];
    const float new_top = fmaxf(top, warp_max(fmaxf(s0, s1)));
    const float rescale = exp2f(top - new_top);
    const float p0 = exp2f(s0 - new_top), p1 = exp2f(s1 - new_top);
    weight = weight * rescale + warp_sum(p0 + p1);
    top = new_top;
    __syncthreads();
    if (warp == 0) {
      p[lane] = p0;
      p[lane + 32] = p1;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = 2 * (threadIdx.x + j * kThreads);
      if (i >= a.v) break;
      float2 o = {sum[j].x * rescale, sum[j].y * rescale};
#pragma unroll 8
      for (int k = from; k < until; ++k) {
        const float2 x = source.value(tile, k, i);
        o.x += p[k] * x.x;
        o.y += p[k] * x.y;
      }
      sum[j] = o;
    }
  }
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = 2 * (threadIdx.x + j * kThreads);
    if (i < a.v)
      *reinterpret_cast<__nv_bfloat162*>(out + i) =
          __floats2bfloat162_rn(sum[j].x / weight, sum[j].y / weight);
  }
}

template <class Source>
cudaError_t launch(const Query& q, int tokens, const PagedBatch& batch, const Source& source,
                   cudaStream_t stream) {
  const std::int64_t rows = static_cast<std::int64_t>(tokens) * q.heads;
  if (rows == 0) return cudaSuccess;
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(q.n0 + q.n1 + kTile);
  if (q.v > kGenericMaxDim || q.n0 + q.n1 > kGenericMaxDim || (q.v | q.n0 | q.n1) % 2 != 0 ||
      rows > INT32_MAX)
    return cudaErrorInvalidValue;
  const auto grid = static_cast<unsigned>(rows);
  if (q.v <= 2 * kThreads)
    attend<Source, 1><<<grid, kThreads, bytes, stream>>>(q, batch, source);
  else
    attend<Source, kGenericMaxDim / (2 * kThreads)><<<grid, kThreads, bytes, stream>>>(q, batch, source);
  return cudaGetLastError();
}

constexpr float kLog2E = 1.4426950408889634f;

// 16 bytes a lane where everything is aligned for it, else pairs.
template <bool kWide>
__device__ void copy_row(const __nv_bfloat16* from, __nv_bfloat16* to, int n, int lane) {
  if constexpr (kWide) {
    for (int i = lane * 8; i < n; i += 256)
      *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
  } else {
    for (int i = lane * 2; i < n; i += 64)
      *reinterpret_cast<__nv_bfloat162*>(to + i) = *reinterpret_cast<const __nv_bfloat162*>(from + i);
  }
}

__device__ void dequantise_row(const char* codes, float scale, __nv_bfloat16* to, int latent, int lane) {
  for (int i = lane * 8; i < latent; i += 256) {
    const auto* at = reinterpret_cast<const __nv_fp8x2_e4m3*>(codes + i);
    __nv_bfloat162 o[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 c = static_cast<float2>(at[j]);
      o[j] = __floats2bfloat162_rn(c.x * scale, c.y * scale);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) *reinterpret_cast<__nv_bfloat162*>(to + i + 2 * j) = o[j];
  }
}

constexpr int kGatherRows = 8;  // one a warp

template <bool kWide>
__global__ void __launch_bounds__(kGatherRows * 32) gather(MlaGatherKernelArgs a) {
  const int row = blockIdx.x * kGatherRows + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  auto* latent = static_cast<__nv_bfloat16*>(a.latent_out) + row * a.latent_stride;
  auto* rope = static_cast<__nv_bfloat16*>(a.rope_out) + row * a.rope_stride;
  const int seq = sequence_of(a.k_start, a.batch.seqs, row);
  if (seq < 0) {
    for (int i = lane; i < a.latent; i += 32) latent[i] = __float2bfloat16(0.0f);
    for (int i = lane; i < a.rope; i += 32) rope[i] = __float2bfloat16(0.0f);
    return;
  }
  const int key = row - a.k_start[seq];
  const std::int64_t slot =
      static_cast<std::int64_t>(a.batch.block_table[seq * a.batch.max_blocks + key / kTile]) * kTile +
      key % kTile;
  if (a.fp8) {
    const char* token = static_cast<const char*>(a.cache) + slot * (a.latent + 2 * a.rope);
    dequantise_row(token, a.latent_scale, latent, a.latent, lane);
    copy_row<kWide>(bf16(token + a.latent), rope, a.rope, lane);
  } else {
    const __nv_bfloat16* token = bf16(a.cache) + slot * (a.latent + a.rope);
    copy_row<kWide>(token, latent, a.latent, lane);
    copy_row<kWide>(token + a.latent, rope, a.rope, lane);
  }
}

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

}  // namespace

cudaError_t mla_absorbed_generic(const MlaAbsorbedGenericArgs& a, cudaStream_t stream) {
  const Query q = {static_cast<const __nv_bfloat16*>(a.q_latent),
                   static_cast<const __nv_bfloat16*>(a.q_rope),
                   a.q_latent_stride,
                   a.q_rope_stride,
                   a.latent,
                   a.rope,
                   a.latent,
                   a.heads,
                   0,
                   a.scale * kLog2E,
                   static_cast<__nv_bfloat16*>(a.out),
                   a.out_stride};
  if (a.fp8) {
    if (a.latent % 8 != 0) return cudaErrorInvalidValue;
    return launch(q, a.tokens, a.batch,
                  MlaFp8{static_cast<const char*>(a.cache), a.latent, a.rope, a.latent_scale}, stream);
  }
  return launch(q, a.tokens, a.batch, MlaBf16{static_cast<const __nv_bfloat16*>(a.cache), a.latent, a.rope},
                stream);
}

cudaError_t mla_expanded_generic(const MlaExpandedGenericArgs& a, cudaStream_t stream) {
  const Query q = {static_cast<const __nv_bfloat16*>(a.q),
                   nullptr,
                   a.q_stride,
                   0,
                   a.nope + a.rope,
                   0,
                   a.v,
                   a.heads,
                   0,
                   a.scale * kLog2E,
                   static_cast<__nv_bfloat16*>(a.out),
                   a.out_stride};
  if (a.nope % 2 != 0) return cudaErrorInvalidValue;
  return launch(q, a.tokens, a.batch,
                Expanded{static_cast<const __nv_bfloat16*>(a.kv), static_cast<const __nv_bfloat16*>(a.k_rope),
                         a.kv_stride, a.k_rope_stride, a.k_start, a.heads, a.nope},
                stream);
}

cudaError_t gqa_generic(const GqaGenericArgs& a, cudaStream_t stream) {
  if (a.kv_heads <= 0 || a.heads % a.kv_heads != 0) return cudaErrorInvalidValue;
  const Query q = {static_cast<const __nv_bfloat16*>(a.q),
                   nullptr,
                   a.q_stride,
                   0,
                   a.dim,
                   0,
                   a.dim,
                   a.heads,
                   a.window,
                   a.scale * kLog2E,
                   static_cast<__nv_bfloat16*>(a.out),
                   a.out_stride};
  return launch(q, a.tokens, a.batch,
                Gqa{static_cast<const __nv_bfloat16*>(a.cache), a.kv_heads, a.dim, a.heads / a.kv_heads},
                stream);
}

cudaError_t mla_gather_kernel(const MlaGatherKernelArgs& a, cudaStream_t stream) {
  if (a.rows == 0) return cudaSuccess;
  if (a.latent % 2 != 0 || a.rope % 2 != 0 || (a.fp8 && a.latent % 8 != 0)) return cudaErrorInvalidValue;
  const bool tokens_aligned = !a.fp8 || a.latent % 16 == 0;
  const bool wide = a.latent % 8 == 0 && a.rope % 8 == 0 && a.latent_stride % 8 == 0 &&
                    a.rope_stride % 8 == 0 && tokens_aligned && aligned16(a.cache) &&
                    aligned16(a.latent_out) && aligned16(a.rope_out);
  const auto grid = static_cast<unsigned>((a.rows + kGatherRows - 1) / kGatherRows);
  if (wide)
    gather<true><<<grid, kGatherRows * 32, 0, stream>>>(a);
  else
    gather<false><<<grid, kGatherRows * 32, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace trireme::cuda
