// Persistent CTAs of a producer warp and two warpgroups that multiply. The work is a list of tiles of 128
// queries of one head; the producer finds a CTA's next tile and loads it while the last is still multiplied.
#pragma once
#include <cuda_bf16.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/prim/wgmma.cuh"
#include "backends/cuda/prim/wgmma_n128.cuh"
#include "backends/cuda/sm90/flash_prefill/softmax.cuh"
#include "backends/cuda/sm90/flash_prefill/store.cuh"
#include "backends/cuda/sm90/flash_prefill/work.cuh"

namespace trireme::cuda::flash {

constexpr int kStages = 2, kThreads = 384;
constexpr int kChunk = 64;  // columns of a swizzled row of shared memory: 128 bytes

// Columns of keys that all heads share come last, from a matrix of their own.
template <int kKeyDim, int kSharedDim, int kValueDim, bool kPaged_>
struct Shape {
  static constexpr int kQk = kKeyDim + kSharedDim, kOwn = kKeyDim, kV = kValueDim;
  static constexpr bool kPaged = kPaged_;
  // Whether the warpgroups issue their products in turns, one while the other is at its softmax: 1 to 3%
  // faster with few columns, 1% slower with 192.
  static constexpr bool kTakeTurns = kQk <= 128;
};

struct Params {
  FlashBatch seqs;
  const std::int32_t* k_start = nullptr;  // not paged
  std::int64_t out_stride = 0;
  __nv_bfloat16* out = nullptr;
  float scale_log2 = 0;
  int window = 0;
  Order order;
  int q_stride = 0;            // columns from one query head to the next
  int k_stride = 0;            // columns of k and v from one KV head to the next
  int v_first = 0;             // column of the first value of KV head 0
  std::int32_t past_rows = 0;  // a row of k and v past the last, which reads as zeros
};

template <class S>
struct Smem {
  alignas(1024) __nv_bfloat16 q[S::kQk / kChunk][kQueries][kChunk];
  alignas(1024) __nv_bfloat16 k[kStages][S::kQk / kChunk][kKeys][kChunk];
  alignas(1024) __nv_bfloat16 v[kStages][S::kV / kChunk][kKeys][kChunk];
  Work work[2];
  Mbarrier work_full[2], work_empty[2];
  Mbarrier q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

template <class S>
__device__ void load_keys(Smem<S>& smem, const Params& p, const CUtensorMap& k, const CUtensorMap& shared,
                          const Work& t, int stage, int tile, int kv_head) {
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
__device__ void load_values(Smem<S>& smem, const Params& p, const CUtensorMap& v, const Work& t, int stage,
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

// The producer's way through the list: the CTAs take its entries as they come free. `step` counts tiles of
// keys over all of the CTA's work. One warp, of which lane 0 loads.
template <class S>
__device__ void produce(Smem<S>& smem, const Params& p, const CUtensorMap& q, const CUtensorMap& kv,
                        const CUtensorMap& shared) {
  int step = 0, loaded = 0, entry = static_cast<int>(blockIdx.x);
  for (int round = 0;; ++round) {
    const Work w = find_work(p.seqs, p.order, entry);
    if (threadIdx.x == 0) {
      mbarrier_wait(&smem.work_empty[round % 2], (round / 2 + 1) % 2);
      smem.work[round % 2] = w;
      mbarrier_arrive(&smem.work_full[round % 2]);
      if (w.seq >= 0 && w.context > 0) {
        const int kv_head = w.head / p.order.group;
        const KeyRange range = keys_of(w, p.window);
        for (int tile = range.last; tile >= range.first; --tile, ++step) {
          const int stage = step % kStages, parity = (step / kStages + 1) % 2;
          mbarrier_wait(&smem.k_empty[stage], parity);
          load_keys<S>(smem, p, kv, shared, w, stage, tile, kv_head);
          if (tile == range.last) {
            mbarrier_wait(&smem.q_empty, (loaded++ + 1) % 2);
            mbarrier_arrive_expect_tx(&smem.q_full, sizeof(smem.q));
#pragma unroll
            for (int c = 0; c < S::kQk / kChunk; ++c)
              tma_load_2d(&smem.q[c], &q, &smem.q_full, w.head * p.q_stride + c * kChunk, w.q_row);
          }
          mbarrier_wait(&smem.v_empty[stage], parity);
          load_values<S>(smem, p, kv, w, stage, tile, kv_head);
        }
      }
    }
    if (w.seq < 0) return;
    if (threadIdx.x == 0) entry = static_cast<int>(gridDim.x + atomicAdd(p.seqs.counter, 1));
    entry = __shfl_sync(~0u, entry, 0);
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
  fence_proxy_async();
  named_barrier_sync(1 + group, 128);
}

// One tile of queries; `step` counts the tiles of keys so far.
template <class S>
__device__ __forceinline__ void multiply(Smem<S>& smem, const Params& p, const Work& w, int group,
                                         int q_parity, int& step) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const int row = group * 64 + thread / 32 * 16 + lane / 4;  // and row + 8: this thread's queries in the tile
  const int old = w.context - w.q_len;
  const KeyRange range = keys_of(w, p.window);
  Rows rows;
  rows.init(min(w.context - 1, old + w.first + row), min(w.context - 1, old + w.first + row + 8));
  const int group_first = old + w.first + group * 64;  // own key of the warpgroup's first query

  const auto softmax = [&](float(&s)[kKeys / 2], int tile, float(&rescale)[2]) {
    const int first_key = tile * kKeys;
    if (first_key + kKeys - 1 > min(group_first, w.context - 1) ||
        (p.window > 0 && first_key <= group_first + 63 - p.window))
      rows.mask(s, first_key + lane % 4 * 2, p.window);
    rows.update(s, {p.scale_log2, p.scale_log2}, rescale);
  };
  const auto parity = [](int at) { return static_cast<std::uint32_t>(at / kStages % 2); };

  float o[S::kV / 2] = {};
  std::uint32_t weights[kKeys / 4];
  mbarrier_wait(&smem.q_full, static_cast<std::uint32_t>(q_parity));
  {
    float s[kKeys / 2], rescale[2];
    mbarrier_wait(&smem.k_full[step % kStages], parity(step));
    wgmma_fence();
    issue_scores<S>(s, smem, step % kStages, group);
    wgmma_wait<0>();
    wgmma_hold(s);
    if (lane == 0) mbarrier_arrive(&smem.k_empty[step % kStages]);
    softmax(s, range.last, rescale);
    pack(s, weights);
  }
  const int past = w.context - range.last * kKeys;
  if (past < kKeys) {
    mbarrier_wait(&smem.v_full[step % kStages], parity(step));
    clear_values<S>(smem, step % kStages, past, group);
  }
  for (int tile = range.last - 1; tile >= range.first; --tile, ++step) {
    const int stage = step % kStages, next = (step + 1) % kStages;
    float s[kKeys / 2], rescale[2];
    mbarrier_wait(&smem.k_full[next], parity(step + 1));
    if constexpr (S::kTakeTurns) named_barrier_sync(3 + group, 256);
    wgmma_hold(o);
    wgmma_hold(weights);
    wgmma_fence();
    issue_scores<S>(s, smem, next, group);
    mbarrier_wait(&smem.v_full[stage], parity(step));
    wgmma_fence();  // the wait may have been a loop
    issue_values<S>(o, weights, smem, stage);
    if constexpr (S::kTakeTurns) named_barrier_arrive(4 - group, 256);
    wgmma_wait<1>();
    wgmma_hold(s);
    if (lane == 0) mbarrier_arrive(&smem.k_empty[next]);
    softmax(s, tile, rescale);
    wgmma_wait<0>();
    wgmma_hold(o);
    if (lane == 0) mbarrier_arrive(&smem.v_empty[stage]);
    scale_rows(o, rescale);
    pack(s, weights);
  }
  if (lane == 0) mbarrier_arrive(&smem.q_empty);
  mbarrier_wait(&smem.v_full[step % kStages], parity(step));
  wgmma_hold(o);
  wgmma_hold(weights);
  wgmma_fence();
  issue_values<S>(o, weights, smem, step % kStages);
  wgmma_wait<0>();
  wgmma_hold(o);
  if (lane == 0) mbarrier_arrive(&smem.v_empty[step % kStages]);
  ++step;
  float inverse[2];
  rows.finish(inverse);
  scale_rows(o, inverse);
  store_rows(Out{p.out, p.out_stride, p.order.heads}, w, o, row);
}

template <class S>
__device__ void consume(Smem<S>& smem, const Params& p, int group) {
  int step = 0, tiles = 0;
  if (S::kTakeTurns && group == 1) named_barrier_arrive(3, 256);
  for (int round = 0;; ++round) {
    mbarrier_wait(&smem.work_full[round % 2], static_cast<std::uint32_t>(round / 2 % 2));
    const Work w = smem.work[round % 2];
    mbarrier_arrive(&smem.work_empty[round % 2]);  // every thread, behind its own read
    if (w.seq < 0) return;
    if (w.context > 0)
      multiply<S>(smem, p, w, group, tiles++ % 2, step);
    else
      write_zeros<S::kV>(Out{p.out, p.out_stride, p.order.heads}, w, group);
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1)
    prefill(const Params p, const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap kv,
            const __grid_constant__ CUtensorMap shared) {
  extern __shared__ __align__(1024) char memory[];
  Smem<S>& smem = *reinterpret_cast<Smem<S>*>(memory);
  if (threadIdx.x == 0) {
    constexpr std::uint32_t kWarps = 8;  // that multiply; at places of keys and values a lane of each arrives
    mbarrier_init(&smem.q_full, 1);
    mbarrier_init(&smem.q_empty, kWarps);
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(&smem.work_full[i], 1);
      mbarrier_init(&smem.work_empty[i], 32 * kWarps);
    }
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&smem.k_full[i], 1);
      mbarrier_init(&smem.v_full[i], 1);
      mbarrier_init(&smem.k_empty[i], kWarps);
      mbarrier_init(&smem.v_empty[i], kWarps);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  // Of the 168 registers a thread that the CTA was launched with: 128 x 40 + 256 x 232 <= 384 x 168.
  if (threadIdx.x < 128) {
    register_limit_decrease<40>();
    if (threadIdx.x < 32) produce<S>(smem, p, q, kv, shared);
  } else {
    register_limit_increase<232>();
    consume<S>(smem, p, static_cast<int>(threadIdx.x / 128 - 1));
  }
}

}  // namespace trireme::cuda::flash
