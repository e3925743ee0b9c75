#include "backends/cuda/smxx/rope_append.h"

#include "backends/cuda/smxx/choose.h"
#include "backends/cuda/smxx/rotate.cuh"

namespace trireme::cuda::smxx {
namespace {

constexpr int kRotating = 128, kMaxThreads = 32 + kRotating, kBlocksPerSm = 8;

template <Unit U>
__global__ __launch_bounds__(kMaxThreads, kBlocksPerSm) void rope_kernel(RopeArgs a) {
  pdl_launch();
  pdl_wait();
  rotate_heads<U>(a.x, a.head_stride, static_cast<int>(a.heads), a.table, blockIdx.x,
                  static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
}

// One warp: a token's latent, normed if there is a norm, into the cache. Sums in norm_kernel's order, so that
// the fused form gives the bits of its parts.
template <Unit U>
__device__ __forceinline__ void append_latent(const MlaAppendArgs& a, int64_t token, char* to) {
  constexpr int V = kMaxLatent / 256;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint16_t* const from = a.latent + token * a.latent_stride;
  uint4 x[V];
#pragma unroll
  for (int i = 0; i < V; ++i)
    x[i] = load8<kWide<U>>(from + (lane + 32 * i) * 8, a.latent_dim - (lane + 32 * i) * 8);
  float scale = 1;
  if (a.norm != nullptr) {
    float sum[V] = {};
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float f[8];
      unpack8(x[i], f);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i] = fmaf(f[j], f[j], sum[i]);
#pragma unroll
      for (int d = 16; d > 0; d /= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], d);
    }
    static_assert(V == 4);
    const float total = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    scale = norm_scale(total, a.latent_dim, a.eps);
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int at = (lane + 32 * i) * 8;
    float f[8];
    if (a.norm != nullptr) {
      unpack8(x[i], f);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float w = 0;
        if (at + j < a.latent_dim)
          w = a.norm_bf16 ? bf16_value(__ldg(static_cast<const uint16_t*>(a.norm) + at + j))
                          : __ldg(static_cast<const float*>(a.norm) + at + j);
        f[j] *= scale * w;
      }
      x[i] = pack8(f);
    }
    if (a.cache.fp8) {
      if (at >= a.latent_dim) continue;
      float f[8];
      unpack8(x[i], f);
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] *= a.cache.codes_per_value;
      auto* const code = reinterpret_cast<uint32_t*>(to + at);  // a token may begin on 4 bytes
      code[0] = e4m3_pair(f[0], f[1]) | e4m3_pair(f[2], f[3]) << 16;
      code[1] = e4m3_pair(f[4], f[5]) | e4m3_pair(f[6], f[7]) << 16;
    } else {
      store8<kWide<U>>(reinterpret_cast<uint16_t*>(to) + at, x[i], a.latent_dim - at);
    }
  }
}

// A block a token: its first warp writes the cache, the others rotate the query heads.
template <Unit U>
__global__ __launch_bounds__(kMaxThreads, kBlocksPerSm) void mla_append_kernel(MlaAppendArgs a) {
  pdl_launch();
  pdl_wait();
  const int64_t token = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= 32) {
    rotate_heads<U>(a.q, a.q_head_stride, static_cast<int>(a.heads), a.table, token, thread - 32,
                    static_cast<int>(blockDim.x) - 32);
    return;
  }
  const int64_t slot = static_cast<const volatile int32_t*>(a.cache.slots)[token];
  if (slot < 0) return;
  char* const to = a.cache.data + slot * a.cache.token_bytes;
  append_latent<U>(a, token, to);
  const int before = a.cache.fp8 ? a.latent_dim : 2 * a.latent_dim;
  auto* const key_to = reinterpret_cast<uint16_t*>(to + before);
  const uint16_t* const key = a.key + token * a.key_stride;
  if (a.norm != nullptr) {
    for (int unit = thread; unit < units_of<U>(a.table); unit += 32)
      store_pairs<U>(
          key_to, a.table, unit,
          rotated<U>(load_pairs<U>(key, a.table, unit), a.table, turn_of<U>(a.table, token, unit)));
  } else {
    for (int at = thread * 8; at < a.rope_dim; at += 256)
      store8<kWide<U>>(key_to + at, load8<kWide<U>>(key + at, a.rope_dim - at), a.rope_dim - at);
  }
}

// n values of each of `heads` heads, side by side in the cache.
template <Unit U>
__device__ __forceinline__ void copy_heads(uint16_t* to, const uint16_t* from, int64_t head_stride, int heads,
                                           int n) {
  const int vectors = (n + 7) / 8;
  for (int i = static_cast<int>(threadIdx.x); i < heads * vectors; i += static_cast<int>(blockDim.x)) {
    const int head = i / vectors, at = i % vectors * 8;
    store8<kWide<U>>(to + head * n + at, load8<kWide<U>>(from + head * head_stride + at, n - at), n - at);
  }
}

template <Unit U>
__global__ __launch_bounds__(kMaxThreads, kBlocksPerSm) void gqa_append_kernel(GqaAppendArgs a) {
  pdl_launch();
  pdl_wait();
  const int64_t token = blockIdx.x, slot = static_cast<const volatile int32_t*>(a.slots)[token];
  const int kv_heads = static_cast<int>(a.kv_heads), thread = static_cast<int>(threadIdx.x);
  const int64_t half_token = a.kv_heads * a.head_dim;
  auto* const to = reinterpret_cast<uint16_t*>(a.cache) + slot * 2 * half_token;
  const bool keep = slot >= 0, rotate = a.table.cos_sin != nullptr;
  if (rotate && a.q != nullptr)
    rotate_heads<U>(a.q, a.q_head_stride, static_cast<int>(a.heads), a.table, token, thread,
                    static_cast<int>(blockDim.x));
  uint16_t* const k = a.k + token * kv_heads * a.k_head_stride;
  if (rotate) {
    const int units = units_of<U>(a.table);
    for (int i = thread; i < kv_heads * units; i += static_cast<int>(blockDim.x)) {
      const int head = i / units, unit = i % units;
      const Pairs p = rotated<U>(load_pairs<U>(k + head * a.k_head_stride, a.table, unit), a.table,
                                 turn_of<U>(a.table, token, unit));
      store_pairs<U>(k + head * a.k_head_stride, a.table, unit, p);
      if (keep) store_pairs<U>(to + head * a.head_dim, a.table, unit, p);
    }
  } else if (keep) {
    copy_heads<U>(to, k, a.k_head_stride, kv_heads, a.head_dim);
  }
  if (keep)
    copy_heads<U>(to + half_token, a.v + token * kv_heads * a.v_head_stride, a.v_head_stride, kv_heads,
                  a.head_dim);
}

bool wide(const RopeTable& t) {
  return t.cos_sin == nullptr ||
         (t.dim % (t.interleaved ? 8 : 16) == 0 && smxx::wide(t.cos_sin, t.stride, 4, t.dim / 2));
}

// Threads that rotate `heads` heads of one token; 0: a head has more units than a block has threads.
template <Unit U>
int rotating(const RopeTable& t, int64_t heads) {
  const int units = units_of<U>(t);
  const int64_t wanted = units * heads;
  if (units > kRotating) return 0;
  return static_cast<int>((wanted < kRotating ? wanted : kRotating) + 31) / 32 * 32;
}

template <Unit U>
cudaError_t launch_rope(const RopeArgs& a, cudaStream_t stream) {
  const int threads = rotating<U>(a.table, a.heads);
  if (threads == 0) return cudaErrorInvalidValue;
  return launch(rope_kernel<U>, static_cast<unsigned>(a.tokens), static_cast<unsigned>(threads), 0, stream,
                a);
}

template <Unit U>
cudaError_t launch_mla(const MlaAppendArgs& a, cudaStream_t stream) {
  const int threads = a.q == nullptr ? 0 : rotating<U>(a.table, a.heads);
  if ((a.q != nullptr && threads == 0) || a.latent_dim > kMaxLatent) return cudaErrorInvalidValue;
  return launch(mla_append_kernel<U>, static_cast<unsigned>(a.tokens), static_cast<unsigned>(32 + threads), 0,
                stream, a);
}

template <Unit U>
cudaError_t launch_gqa(const GqaAppendArgs& a, cudaStream_t stream) {
  const int threads = a.table.cos_sin == nullptr ? kRotating : rotating<U>(a.table, a.heads + a.kv_heads);
  if (threads == 0) return cudaErrorInvalidValue;
  return launch(gqa_append_kernel<U>, static_cast<unsigned>(a.tokens), static_cast<unsigned>(threads), 0,
                stream, a);
}

// The unit that fits, where all the rows of a call do.
Unit unit_of(const RopeTable& t, bool rows_fit) {
  if (!rows_fit || !wide(t)) return Unit::kPair;
  return t.interleaved ? Unit::kNeighbours : Unit::kHalves;
}

}  // namespace

cudaError_t rope(const RopeArgs& a, cudaStream_t stream) {
  if (a.heads == 0) return cudaSuccess;
  switch (unit_of(a.table, wide(a.x, a.head_stride, 2, a.table.dim))) {
    case Unit::kNeighbours:
      return launch_rope<Unit::kNeighbours>(a, stream);
    case Unit::kHalves:
      return launch_rope<Unit::kHalves>(a, stream);
    default:
      return launch_rope<Unit::kPair>(a, stream);
  }
}

cudaError_t mla_append(const MlaAppendArgs& a, cudaStream_t stream) {
  const int64_t before = a.cache.fp8 ? a.latent_dim : int64_t{2} * a.latent_dim;
  const bool fits =
      wide(a.q, a.q_head_stride, 2, a.rope_dim) && wide(a.latent, a.latent_stride, 2, a.latent_dim) &&
      wide(a.key, a.key_stride, 2, a.rope_dim) && wide(a.cache.data, a.cache.token_bytes, 1, before);
  switch (unit_of(a.table, fits)) {
    case Unit::kNeighbours:
      return launch_mla<Unit::kNeighbours>(a, stream);
    case Unit::kHalves:
      return launch_mla<Unit::kHalves>(a, stream);
    default:
      return launch_mla<Unit::kPair>(a, stream);
  }
}

cudaError_t gqa_append(const GqaAppendArgs& a, cudaStream_t stream) {
  const bool fits = wide(a.q, a.q_head_stride, 2, a.head_dim) && wide(a.k, a.k_head_stride, 2, a.head_dim) &&
                    wide(a.v, a.v_head_stride, 2, a.head_dim) && wide(a.cache, a.head_dim, 2, a.head_dim);
  switch (unit_of(a.table, fits)) {
    case Unit::kNeighbours:
      return launch_gqa<Unit::kNeighbours>(a, stream);
    case Unit::kHalves:
      return launch_gqa<Unit::kHalves>(a, stream);
    default:
      return launch_gqa<Unit::kPair>(a, stream);
  }
}

}  // namespace trireme::cuda::smxx
