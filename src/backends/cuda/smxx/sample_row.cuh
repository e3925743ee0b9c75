// One row of logits in the shared memory of a cluster, and its best token.
#pragma once
#include <cooperative_groups.h>
#include <cuda_pipeline.h>

#include <climits>
#include <cstdint>

#include "backends/cuda/smxx/sample_histogram.cuh"
#include "backends/cuda/smxx/sample_rank.cuh"

namespace trireme::cuda::sampling {

namespace cg = cooperative_groups;

inline constexpr int kList = 1024;  // candidates that one block sorts out alone

// What a selection looks for: the first token, best first, at which the sum reaches `wanted`. It lies among
// `count` tokens after those that sum to `before` of what is wanted, and to `other` of the other.
struct Search {
  bool by_count;
  uint64_t wanted, before = 0, other = 0;
  uint32_t count = 0;
};

// What a block holds besides its part of the row. Other blocks of the cluster read it.
struct alignas(16) Shared {
  Histogram<kBuckets> whole;  // by Weigher::bucket
  Histogram<1024> part;       // of what a search has come down to
  uint64_t list[kList];       // ranks
  uint64_t warp_mass[kLanes], warp_high[kLanes];
  uint64_t lowest, highest, total;  // this block's
  uint32_t best;                    // this block's: ordered(its best logit)
  int first;                        // this block's: the lowest id of the best logit
  uint32_t warp_best[kLanes];
  uint64_t threshold, threshold_mass;  // the first block's result of a selection
  Search found;
  Sum all;
  int found_bucket;
  uint32_t listed, left;  // ranks in the list, and in warp_high when few are left
};

struct Row {
  cg::cluster_group cluster;
  Shared& s;
  const float* x;      // [mine of each thread], in shared memory
  int first_id, mine;  // of this thread: its part of the row

  __device__ int blocks() const { return static_cast<int>(cluster.num_blocks()); }
  template <class T>
  __device__ T& of(T& own, int block) const {
    return *cluster.map_shared_rank(&own, block);
  }
};

// Elements a thread holds: odd, so that the threads of a warp, each in its own stretch, meet no bank twice.
__host__ __device__ inline int stretch_of(int vocab, int blocks) {
  return ((vocab + blocks * kThreads - 1) / (blocks * kThreads)) | 1;
}
__host__ inline size_t shared_bytes(int stretch) {
  return sizeof(Shared) + static_cast<size_t>(stretch) * kThreads * sizeof(float);
}

// Brings this block's part of a row over. The cluster has not met yet.
__device__ inline Row load_row(const float* logits, int vocab, unsigned char* memory) {
  cg::cluster_group cluster = cg::this_cluster();
  Shared& s = *reinterpret_cast<Shared*>(memory);
  float* const x = reinterpret_cast<float*>(memory + sizeof(Shared));
  const int stretch = stretch_of(vocab, static_cast<int>(cluster.num_blocks())), tid = threadIdx.x;
  const int begin = static_cast<int>(cluster.block_rank()) * stretch * kThreads;
  const int n = max(0, min(vocab - begin, stretch * kThreads));
  const float* const from = logits + begin;
  int done = 0;
  if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    done = n / 4 * 4;
    for (int i = 4 * tid; i < done; i += 4 * kThreads) __pipeline_memcpy_async(x + i, from + i, 16);
  }
  for (int i = done + tid; i < n; i += kThreads) __pipeline_memcpy_async(x + i, from + i, 4);
  __pipeline_commit();
  if (tid == 0) s.listed = 0;
  s.whole.clear();
  __pipeline_wait_prior(0);
  __syncthreads();
  return {cluster, s, x + tid * stretch, begin + tid * stretch, max(0, min(n - tid * stretch, stretch))};
}

// Every block's value, one a lane; `none` beyond. The reads are on the way together.
template <class T>
__device__ T of_blocks(const Row& row, T& own, T none) {
  const int lane = threadIdx.x % kLanes;
  return lane < row.blocks() ? row.of(own, lane) : none;
}

// The best logit of the row as ordered() has it, NaN above all. All threads of the cluster.
__device__ inline uint32_t best_of(Row& row) {
  float best = -INFINITY;
  bool nan = false;
#pragma unroll 4
  for (int i = 0; i < row.mine; ++i) {
    const float v = row.x[i];
    nan |= v != v;
    best = fmaxf(best, v);
  }
  uint32_t key = __reduce_max_sync(~0u, nan ? ordered(NAN) : ordered(best));
  if (threadIdx.x % kLanes == 0) row.s.warp_best[threadIdx.x / kLanes] = key;
  __syncthreads();
  if (threadIdx.x < kLanes) {
    key = __reduce_max_sync(~0u, row.s.warp_best[threadIdx.x]);
    if (threadIdx.x == 0) row.s.best = key;
  }
  row.cluster.sync();
  return __reduce_max_sync(~0u, of_blocks(row, row.s.best, 0u));
}

// The lowest id whose logit is `best`. All threads of the cluster.
__device__ inline int first_of(Row& row, float best) {
  int first = INT_MAX;
  for (int i = row.mine - 1; i >= 0; --i)
    if (row.x[i] == best) first = row.first_id + i;
  if (threadIdx.x == 0) row.s.first = INT_MAX;
  __syncthreads();
  first = __reduce_min_sync(~0u, first);
  if (threadIdx.x % kLanes == 0 && first != INT_MAX) atomicMin(&row.s.first, first);
  row.cluster.sync();
  return __reduce_min_sync(~0u, of_blocks(row, row.s.first, INT_MAX));
}

// Mass of the threads before this one, and of all of the block.
__device__ inline uint64_t mass_before(uint64_t mine, uint64_t& all, Shared& s) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const uint64_t upto = warp_prefix(mine);
  if (lane == kLanes - 1) s.warp_mass[warp] = upto;
  __syncthreads();
  const uint64_t warps = warp_prefix(s.warp_mass[lane]);
  all = __shfl_sync(~0u, warps, kLanes - 1);
  const uint64_t before = __shfl_sync(~0u, warps, max(0, warp - 1));
  return upto - mine + (warp > 0 ? before : 0);
}

}  // namespace trireme::cuda::sampling
