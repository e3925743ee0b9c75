// One CTA a (tile of 128 queries, head): a producer warp and two warpgroups that multiply.
#pragma once
#include <cuda_bf16.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/prim/wgmma.cuh"
#include "backends/cuda/sm90/flash_prefill/flash_prefill.h"
#include "backends/cuda/sm90/flash_prefill/softmax.cuh"
#include "backends/cuda/sm90/flash_prefill/wgmma_n128.cuh"

namespace trireme::cuda::flash {

constexpr int kQueries = 128, kKeys = 128, kStages = 2, kThreads = 384;
constexpr int kChunk = 64;  // columns of a swizzled row of shared memory: 128 bytes

// Columns of keys that all heads share come last, from a matrix of their own.
template <int kKeyDim, int kSharedDim, int kValueDim, bool kPaged_>
struct Shape {
  static constexpr int kQk = kKeyDim + kSharedDim, kOwn = kKeyDim, kV = kValueDim;
  static constexpr bool kPaged = kPaged_;
};

struct Params {
  FlashBatch seqs;
  const std::int32_t* k_start = nullptr;  // not paged
  std::int64_t out_stride = 0;
  __nv_bfloat16* out = nullptr;
  float scale_log2 = 0;
  int window = 0, heads = 0, group = 1;  // group: query heads a KV head
  int q_stride = 0;                      // columns from one query head to the next
  int k_stride = 0;                      // columns of k and v from one KV head to the next
  int v_first = 0;                       // column of the first value of KV head 0
  std::int32_t past_rows = 0;            // a row of k and v past the last, which reads as zeros
};

template <class S>
struct Smem {
  alignas(1024) __nv_bfloat16 q[S::kQk / kChunk][kQueries][kChunk];
  alignas(1024) __nv_bfloat16 k[kStages][S::kQk / kChunk][kKeys][kChunk];
  alignas(1024) __nv_bfloat16 v[kStages][S::kV / kChunk][kKeys][kChunk];
  Mbarrier q_full, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

// What a CTA works on.
struct Tile {
  int seq = -1, q_row = 0, q_len = 0, context = 0;  // q_row: of q, where the tile begins
  int first = 0;                                    // query of the sequence, at the tile's beginning
};

// The blockIdx.x-th tile of the batch; a sequence's last tile comes first, for it takes longest. One warp.
__device__ inline Tile find_tile(const FlashBatch& b) {
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int base = 0; base < b.batch.seqs; base += 32) {
    const int seq = base + lane;
    int begin = 0, length = 0;
    if (seq < b.batch.seqs) {
      begin = b.batch.q_start[seq];
      length = b.batch.q_start[seq + 1] - begin;
    }
    const int tiles = length < b.min_tokens ? 0 : (length + kQueries - 1) / kQueries;
    int sum = tiles;
    for (int i = 1; i < 32; i *= 2) {
      const int below = __shfl_up_sync(~0u, sum, i);
      if (lane >= i) sum += below;
    }
    const int index = static_cast<int>(blockIdx.x) - before - (sum - tiles);
    const unsigned mine = __ballot_sync(~0u, index >= 0 && index < tiles);
    if (mine != 0) {
      const int at = __ffs(mine) - 1;
      Tile t;
      t.seq = base + at;
      t.q_len = __shfl_sync(~0u, length, at);
      t.first = __shfl_sync(~0u, (tiles - 1 - index) * kQueries, at);
      t.q_row = __shfl_sync(~0u, begin, at) + t.first;
      t.context = b.batch.context_len[t.seq];
      return t;
    }
    before += __shfl_sync(~0u, sum, 31);
  }
  return {};
}

// The tiles of keys that a tile of queries sees: [first, last], from the last down.
struct KeyRange {
  int first, last;
};
__device__ inline KeyRange keys_of(const Tile& t, int window) {
  const int old = t.context - t.q_len;  // keys before the first query's own
  const int last = min(t.context - 1, old + t.first + kQueries - 1);
  const int first = window > 0 ? max(0, old + t.first - window + 1) : 0;
  return {first / kKeys, last / kKeys};
}

template <class S>
__device__ void load_keys(Smem<S>& smem, const Params& p, const CUtensorMap& k, const CUtensorMap& shared,
                          const Tile& t, int stage, int tile, int kv_head) {
  mbarrier_arrive_expect_tx(&smem.k_full[stage], sizeof(smem.k[0]));
  if constexpr (S::kPaged) {
#pragma unroll
    for (int page = 0; page < kKeys / 64; ++page) {
      const int number = tile * (kKeys / 64) + page;
      const int row = number * 64 < t.context
                          ? p.seqs.batch.block_table[t.seq * p.seqs.batch.max_blocks + number] * 64
                          : p.past_rows;
#pragma unroll
      for (int c = 0; c < S::kQk / kChunk; ++c)
        tma_load_2d(&smem.k[stage][c][page * 64], &k, &smem.k_full[stage], kv_head * p.k_stride + c * kChunk,
                    row);
    }
  } else {
    const int row = p.k_start[t.seq] + tile * kKeys;
#pragma unroll
    for (int c = 0; c < S::kOwn / kChunk; ++c)
      tma_load_2d(&smem.k[stage][c], &k, &smem.k_full[stage], kv_head * p.k_stride + c * kChunk, row);
#pragma unroll
    for (int c = S::kOwn / kChunk; c < S::kQk / kChunk; ++c)
      tma_load_2d(&smem.k[stage][c], &shared, &smem.k_full[stage], c * kChunk - S::kOwn, row);
  }
}

template <class S>
__device__ void load_values(Smem<S>& smem, const Params& p, const CUtensorMap& v, const Tile& t, int stage,
                            int tile, int kv_head) {
  mbarrier_arrive_expect_tx(&smem.v_full[stage], sizeof(smem.v[0]));
  const int column = p.v_first + kv_head * p.k_stride;
  if constexpr (S::kPaged) {
#pragma unroll
    for (int page = 0; page < kKeys / 64; ++page) {
      const int number = tile * (kKeys / 64) + page;
      const int row = number * 64 < t.context
                          ? p.seqs.batch.block_table[t.seq * p.seqs.batch.max_blocks + number] * 64
                          : p.past_rows;
#pragma unroll
      for (int c = 0; c < S::kV / kChunk; ++c)
        tma_load_2d(&smem.v[stage][c][page * 64], &v, &smem.v_full[stage], column + c * kChunk, row);
    }
  } else {
#pragma unroll
    for (int c = 0; c < S::kV / kChunk; ++c)
      tma_load_2d(&smem.v[stage][c], &v, &smem.v_full[stage], column + c * kChunk,
                  p.k_start[t.seq] + tile * kKeys);
  }
}

template <class S>
__device__ void produce(Smem<S>& smem, const Params& p, const CUtensorMap& q, const CUtensorMap& kv,
                        const CUtensorMap& shared, const Tile& t, const KeyRange& range) {
  const int head = blockIdx.y, kv_head = head / p.group;
  mbarrier_arrive_expect_tx(&smem.q_full, sizeof(smem.q));
#pragma unroll
  for (int c = 0; c < S::kQk / kChunk; ++c)
    tma_load_2d(&smem.q[c], &q, &smem.q_full, head * p.q_stride + c * kChunk, t.q_row);
  int stage = 0;
  std::uint32_t parity = 1;  // a fresh barrier's preceding phase counts as complete
  for (int tile = range.last; tile >= range.first; --tile) {
    mbarrier_wait(&smem.k_empty[stage], parity);
    load_keys<S>(smem, p, kv, shared, t, stage, tile, kv_head);
    mbarrier_wait(&smem.v_empty[stage], parity);
    load_values<S>(smem, p, kv, t, stage, tile, kv_head);
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// Scores of this warpgroup's 64 queries; in flight on return.
template <class S>
__device__ __forceinline__ void issue_scores(float (&s)[kKeys / 2], const Smem<S>& smem, int stage,
                                             int group) {
#pragma unroll
  for (int c = 0; c < S::kQk / kChunk; ++c) {
    const std::uint64_t a = wgmma_desc_k_major(&smem.q[c][group * 64]),
                        b = wgmma_desc_k_major(&smem.k[stage][c]);
#pragma unroll
    for (int i = 0; i < kChunk / 16; ++i) wgmma_n128_ss_nt(s, a + 2 * i, b + 2 * i, c > 0 || i > 0);
  }
  wgmma_commit();
}

template <class S>
__device__ __forceinline__ void issue_values(float (&o)[S::kV / 2], const std::uint32_t (&p)[kKeys / 4],
                                             const Smem<S>& smem, int stage) {
  const std::uint64_t b = wgmma_desc_mn_major(&smem.v[stage][0], kKeys * kChunk * 2);
#pragma unroll
  for (int i = 0; i < kKeys / 16; ++i) wgmma_rs_nn(o, &p[4 * i], b + 128 * i, true);
  wgmma_commit();
}

// Values past the context may be anything, and zero times NaN is NaN. By each warpgroup for itself: both
// write the same.
template <class S>
__device__ void clear_values(Smem<S>& smem, int stage, int from, int group) {
  const int thread = threadIdx.x % 128;
  for (int i = from * 8 + thread; i < kKeys * 8; i += 128)
#pragma unroll
    for (int c = 0; c < S::kV / kChunk; ++c) reinterpret_cast<uint4*>(&smem.v[stage][c])[i] = uint4{};
  fence_proxy_async_smem();
  named_barrier_sync(1 + group, 128);
}

template <class S>
__device__ void consume(Smem<S>& smem, const Params& p, const Tile& t, const KeyRange& range, int group) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const int row = group * 64 + thread / 32 * 16 + lane / 4;  // and row + 8: this thread's queries in the tile
  const int old = t.context - t.q_len;
  Rows rows;
  rows.init(min(t.context - 1, old + t.first + row), min(t.context - 1, old + t.first + row + 8));
  const int group_first = old + t.first + group * 64;  // own key of the warpgroup's first query

  const auto softmax = [&](float(&s)[kKeys / 2], int tile, float(&rescale)[2]) {
    const int first_key = tile * kKeys;
    if (first_key + kKeys - 1 > min(group_first, t.context - 1) ||
        (p.window > 0 && first_key <= group_first + 63 - p.window))
      rows.mask(s, first_key + lane % 4 * 2, p.window);
    rows.update(s, p.scale_log2, rescale);
  };

  float o[S::kV / 2] = {};
  std::uint32_t weights[kKeys / 4];
  mbarrier_wait(&smem.q_full, 0);
  {
    float s[kKeys / 2], rescale[2];
    mbarrier_wait(&smem.k_full[0], 0);
    wgmma_fence();
    issue_scores<S>(s, smem, 0, group);
    wgmma_wait<0>();
    wgmma_hold(s);
    if (lane == 0) mbarrier_arrive(&smem.k_empty[0]);
    softmax(s, range.last, rescale);
    pack(s, weights);
  }
  int stage = 0;  // of the values to come
  std::uint32_t parity = 0;
  const int past = t.context - range.last * kKeys;
  if (past < kKeys) {
    mbarrier_wait(&smem.v_full[0], 0);
    clear_values<S>(smem, 0, past, group);
  }
  for (int tile = range.last - 1; tile >= range.first; --tile) {
    const int next = stage + 1 == kStages ? 0 : stage + 1;
    const std::uint32_t next_parity = next == 0 ? parity ^ 1 : parity;
    float s[kKeys / 2], rescale[2];
    mbarrier_wait(&smem.k_full[next], next_parity);
    wgmma_hold(o);
    wgmma_hold(weights);
    wgmma_fence();
    issue_scores<S>(s, smem, next, group);
    mbarrier_wait(&smem.v_full[stage], parity);
    issue_values<S>(o, weights, smem, stage);
    wgmma_wait<1>();
    wgmma_hold(s);
    if (lane == 0) mbarrier_arrive(&smem.k_empty[next]);
    softmax(s, tile, rescale);
    wgmma_wait<0>();
    wgmma_hold(o);
    if (lane == 0) mbarrier_arrive(&smem.v_empty[stage]);
    scale_rows(o, rescale);
    pack(s, weights);
    stage = next;
    parity = next_parity;
  }
  mbarrier_wait(&smem.v_full[stage], parity);
  wgmma_hold(o);
  wgmma_hold(weights);
  wgmma_fence();
  issue_values<S>(o, weights, smem, stage);
  wgmma_wait<0>();
  wgmma_hold(o);
  float inverse[2];
  rows.finish(inverse);
  scale_rows(o, inverse);

  // Out through this warpgroup's queries' memory, swizzled, in whole rows.
#pragma unroll
  for (int j = 0; j < S::kV / 8; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = row + 8 * h, column = j % 8 * 8 + lane % 4 * 2;
      *reinterpret_cast<std::uint32_t*>(&smem.q[j / 8][r][column ^ (r & 7) * 8]) =
          pack_pair(o[4 * j + 2 * h], o[4 * j + 2 * h + 1]);
    }
  named_barrier_sync(1 + group, 128);
  const int count = min(64, t.q_len - t.first - group * 64);
  for (int i = thread; i < count * (S::kV / 8); i += 128) {
    const int r = i / (S::kV / 8), j = i % (S::kV / 8), in_tile = group * 64 + r;
    const uint4 v = *reinterpret_cast<const uint4*>(&smem.q[j / 8][in_tile][(j % 8 ^ (in_tile & 7)) * 8]);
    *reinterpret_cast<uint4*>(
        p.out + (static_cast<std::int64_t>(t.q_row + in_tile) * p.heads + blockIdx.y) * p.out_stride +
        j * 8) = v;
  }
}

template <class S>
__device__ void write_zeros(const Params& p, const Tile& t) {
  const int count = min(kQueries, t.q_len - t.first);
  for (int i = threadIdx.x; i < count * (S::kV / 8); i += kThreads)
    *reinterpret_cast<uint4*>(
        p.out + (static_cast<std::int64_t>(t.q_row + i / (S::kV / 8)) * p.heads + blockIdx.y) * p.out_stride +
        i % (S::kV / 8) * 8) = uint4{};
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1)
    prefill(const Params p, const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap kv,
            const __grid_constant__ CUtensorMap shared) {
  extern __shared__ __align__(1024) char memory[];
  Smem<S>& smem = *reinterpret_cast<Smem<S>*>(memory);
  const Tile t = find_tile(p.seqs);  // every warp for itself
  if (t.seq < 0) return;
  if (t.context <= 0) return write_zeros<S>(p, t);
  if (threadIdx.x == 0) {
    mbarrier_init(&smem.q_full, 1);
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&smem.k_full[i], 1);
      mbarrier_init(&smem.v_full[i], 1);
      mbarrier_init(&smem.k_empty[i], 8);  // a lane of each warp that multiplies
      mbarrier_init(&smem.v_empty[i], 8);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  const KeyRange range = keys_of(t, p.window);
  if (threadIdx.x < 128) {
    register_limit_decrease<24>();
    if (threadIdx.x == 0) produce<S>(smem, p, q, kv, shared, t, range);
  } else {
    register_limit_increase<240>();
    consume<S>(smem, p, t, range, static_cast<int>(threadIdx.x / 128 - 1));
  }
}

}  // namespace trireme::cuda::flash
