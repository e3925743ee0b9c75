// One row of logits in the shared memory of a cluster, and what is asked of it: its best token, and the
// worst token of the smallest set of best tokens that reaches a count or a mass.
#pragma once
#include <cooperative_groups.h>
#include <cuda_pipeline.h>

#include <cstdint>

#include "backends/cuda/smxx/sample_rank.cuh"

namespace trireme::cuda::sampling {

namespace cg = cooperative_groups;

inline constexpr int kThreads = 1024;
inline constexpr int kBuckets = 2048;
inline constexpr int kList = 2048;  // candidates that one block sorts out alone
inline constexpr int kLanes = 32;
inline constexpr int kWarps = kThreads / kLanes;
static_assert(kBuckets == 2 * kThreads);

// Weights of a row relative to its best token's, as whole numbers of 2^-44: 2^18 of them fit 64 bits.
struct Weigher {
  float best, inverse_temperature;
  __device__ float exponent(float x) const { return (x - best) * inverse_temperature; }
  __device__ float weight(float x) const { return expf(exponent(x)); }
  __device__ static uint64_t mass(float weight) { return __float2ull_rn(weight * 0x1p44f); }
  // Finer near the best token; never decreases with falling x. All that has mass lies within 32 nats.
  __device__ int bucket(float x) const {
    const float y = -exponent(x);
    if (y < 8.0f) return static_cast<int>(y * 128.0f);
    if (y < 16.0f) return 1024 + static_cast<int>((y - 8.0f) * 64.0f);
    return 1536 + static_cast<int>(fminf((y - 16.0f) * 32.0f, 511.0f));
  }
};

struct Sum {
  uint64_t mass;
  uint32_t count;
};

// What a selection looks for: the first token, best first, at which the sum reaches `wanted`. It lies among
// `count` tokens after those that sum to `before`.
struct Search {
  bool by_count;
  uint64_t wanted;
  Sum before;
  uint32_t count;
};

struct alignas(16) Shared {
  uint32_t low[kBuckets], high[kBuckets], count[kBuckets];  // a histogram; the masses in two halves
  uint64_t list[kList];                                     // ranks; the first block's is used
  uint64_t warp_mass[kWarps], warp_high[kWarps];
  uint32_t warp_count[kWarps];
  uint64_t best, lowest, highest, total;  // this block's, read by the others
  uint64_t threshold, threshold_mass;     // the first block's result of a selection
  Search found;
  int found_bucket;
  uint32_t listed;
};

struct Row {
  cg::cluster_group cluster;
  Shared& s;
  const float* x;      // [mine of each thread], in shared memory
  int first_id, mine;  // of this thread: its part of the row

  __device__ int blocks() const { return static_cast<int>(cluster.num_blocks()); }
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
  if (tid == 0) s.listed = 0;
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  return {cluster, s, x + tid * stretch, begin + tid * stretch, max(0, min(n - tid * stretch, stretch))};
}

__device__ inline uint64_t block_max(uint64_t v, Shared& s) {
  v = warp_max(v);
  __syncthreads();
  if (threadIdx.x % kLanes == 0) s.warp_high[threadIdx.x / kLanes] = v;
  __syncthreads();
  return warp_max(s.warp_high[threadIdx.x % kLanes]);
}

// Rank of the best token of the row, NaN above all. All threads of the cluster.
__device__ inline uint64_t best_of(Row& row) {
  float best = -INFINITY;
  int at = 0;
  bool nan = false;
  for (int i = 0; i < row.mine; ++i) {
    const float v = row.x[i];
    nan |= v != v;
    if (v > best) {
      best = v;
      at = i;
    }
  }
  const uint64_t mine = nan ? ~uint64_t{0} : row.mine > 0 ? rank_of(best, row.first_id + at) : 0;
  const uint64_t block = block_max(mine, row.s);
  if (threadIdx.x == 0) row.s.best = block;
  row.cluster.sync();
  uint64_t all = 0;
  for (int b = 0; b < row.blocks(); ++b) all = max(all, *row.cluster.map_shared_rank(&row.s.best, b));
  return all;
}

// Sums over the threads before this one, and over all of the block.
__device__ inline Sum sum_before(Sum mine, Sum& all, Shared& s) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const auto inclusive = [lane](Sum v) {
    for (int d = 1; d < kLanes; d *= 2) {
      const uint64_t m = __shfl_up_sync(~0u, v.mass, d);
      const uint32_t c = __shfl_up_sync(~0u, v.count, d);
      if (lane >= d) {
        v.mass += m;
        v.count += c;
      }
    }
    return v;
  };
  const Sum upto = inclusive(mine);
  __syncthreads();
  if (lane == kLanes - 1) {
    s.warp_mass[warp] = upto.mass;
    s.warp_count[warp] = upto.count;
  }
  __syncthreads();
  const Sum warps = inclusive({s.warp_mass[lane], s.warp_count[lane]});
  all = {__shfl_sync(~0u, warps.mass, kLanes - 1), __shfl_sync(~0u, warps.count, kLanes - 1)};
  const int previous = max(0, warp - 1);
  const uint64_t m = __shfl_sync(~0u, warps.mass, previous);
  const uint32_t c = __shfl_sync(~0u, warps.count, previous);
  return {upto.mass - mine.mass + (warp > 0 ? m : 0), upto.count - mine.count + (warp > 0 ? c : 0)};
}

__device__ inline void clear_histogram(Shared& s) {
  for (int b = threadIdx.x; b < kBuckets; b += kThreads) s.low[b] = s.high[b] = s.count[b] = 0;
}

__device__ inline void add(Shared& s, int bucket, uint64_t mass) {
  const uint32_t low = static_cast<uint32_t>(mass);
  const uint32_t before = atomicAdd(&s.low[bucket], low);
  const uint32_t high = static_cast<uint32_t>(mass >> 32) + (before + low < before ? 1 : 0);
  if (high != 0) atomicAdd(&s.high[bucket], high);
  atomicAdd(&s.count[bucket], 1);
}

// The histogram of `blocks` blocks: this thread's two buckets, and what comes before them.
struct Histogram {
  Sum bucket[2], before, all;
};

__device__ inline Histogram read_histogram(Row& row, int blocks) {
  Histogram h{};
  const int at = 2 * static_cast<int>(threadIdx.x);
  for (int b = 0; b < blocks; ++b) {
    Shared& from = blocks == 1 ? row.s : *row.cluster.map_shared_rank(&row.s, b);
    const uint2 low = *reinterpret_cast<const uint2*>(from.low + at);
    const uint2 high = *reinterpret_cast<const uint2*>(from.high + at);
    const uint2 count = *reinterpret_cast<const uint2*>(from.count + at);
    h.bucket[0].mass += low.x + (uint64_t{high.x} << 32);
    h.bucket[1].mass += low.y + (uint64_t{high.y} << 32);
    h.bucket[0].count += count.x;
    h.bucket[1].count += count.y;
  }
  h.before = sum_before({h.bucket[0].mass + h.bucket[1].mass, h.bucket[0].count + h.bucket[1].count}, h.all,
                        row.s);
  return h;
}

// The bucket in which the search ends, and the search within it; -1 if it ends in none.
__device__ inline int find(const Histogram& h, Search& search, Shared& s) {
  if (threadIdx.x == 0) s.found_bucket = -1;
  __syncthreads();
  const uint64_t base = search.by_count ? search.before.count : search.before.mass;
  Sum sum = h.before;
  for (int j = 0; j < 2; ++j) {
    const Sum next = {sum.mass + h.bucket[j].mass, sum.count + h.bucket[j].count};
    const uint64_t under = base + (search.by_count ? sum.count : sum.mass);
    const uint64_t upto = base + (search.by_count ? next.count : next.mass);
    if (under < search.wanted && search.wanted <= upto) {
      s.found_bucket = 2 * static_cast<int>(threadIdx.x) + j;
      s.found = {search.by_count,
                 search.wanted,
                 {search.before.mass + sum.mass, search.before.count + sum.count},
                 h.bucket[j].count};
    }
    sum = next;
  }
  __syncthreads();
  const int bucket = s.found_bucket;
  if (bucket >= 0) search = s.found;
  return bucket;
}

// Narrows a search to a range of ranks that holds at most `enough` tokens. each(f) calls f(x, id) for the
// tokens of this thread that the search is about. kWhole: all blocks of the cluster, else one.
template <bool kWhole, class Each>
__device__ void narrow(Row& row, const Weigher& w, Search& search, uint32_t enough, uint64_t& low,
                       uint64_t& high, Each each) {
  Shared& s = row.s;
  const auto meet = [&row] {
    if constexpr (kWhole)
      row.cluster.sync();
    else
      __syncthreads();
  };
  uint64_t top = 0, bottom = 0;  // bottom: of the complements
  each([&](float x, int id) {
    top = max(top, rank_of(x, id));
    bottom = max(bottom, ~rank_of(x, id));
  });
  high = block_max(top, s);
  low = ~block_max(bottom, s);
  if constexpr (kWhole) {
    if (threadIdx.x == 0) {
      s.highest = high;
      s.lowest = low;
    }
    row.cluster.sync();
    for (int b = 0; b < row.blocks(); ++b) {
      high = max(high, *row.cluster.map_shared_rank(&s.highest, b));
      low = min(low, *row.cluster.map_shared_rank(&s.lowest, b));
    }
  }
  while (search.count > enough) {
    const int shift = max(0, 64 - __clzll(static_cast<long long>(high - low)) - 11);
    meet();  // nobody reads the last histogram any more
    clear_histogram(s);
    __syncthreads();
    each([&](float x, int id) {
      const uint64_t rank = rank_of(x, id);
      if (rank >= low && rank <= high)
        add(s, static_cast<int>((high - rank) >> shift), Weigher::mass(w.weight(x)));
    });
    meet();
    const int bucket = find(read_histogram(row, kWhole ? row.blocks() : 1), search, s);
    high -= static_cast<uint64_t>(bucket) << shift;
    low = max(low, high - ((uint64_t{1} << shift) - 1));
  }
}

struct Threshold {
  uint64_t rank;  // the worst token that stays
  uint64_t mass;  // of all that stay
};

// Ends a search whose tokens are in the histogram h of Weigher::bucket. All threads of the cluster.
__device__ inline Threshold select(Row& row, const Weigher& w, const Histogram& h, bool by_count,
                                   uint64_t wanted) {
  Shared& s = row.s;
  Search search = {by_count, wanted, {0, 0}, 0};
  const int bucket = find(h, search, s);
  if (bucket < 0) return {0, h.all.mass};  // less than what is wanted: all stay
  uint64_t low = 0, high = ~uint64_t{0};
  const auto members = [&](auto f) {
    for (int i = 0; i < row.mine; ++i)
      if (w.bucket(row.x[i]) == bucket) f(row.x[i], row.first_id + i);
  };
  if (search.count > kList) narrow<true>(row, w, search, kList, low, high, members);
  uint64_t* const list = row.cluster.map_shared_rank(s.list, 0);
  uint32_t* const listed = row.cluster.map_shared_rank(&s.listed, 0);
  members([&](float x, int id) {
    const uint64_t rank = rank_of(x, id);
    if (rank >= low && rank <= high) {
      const uint32_t at = atomicAdd(listed, 1);
      if (at < kList) list[at] = rank;
    }
  });
  row.cluster.sync();
  if (row.cluster.block_rank() == 0) {
    const uint32_t n = min(s.listed, static_cast<uint32_t>(kList));
    const auto candidates = [&](auto f) {
      for (uint32_t i = threadIdx.x; i < n; i += kThreads) f(value_of(s.list[i]), id_of(s.list[i]));
    };
    narrow<false>(row, w, search, 1, low, high, candidates);
    candidates([&](float x, int id) {
      const uint64_t rank = rank_of(x, id);
      if (rank < low || rank > high) return;
      s.threshold = rank;
      s.threshold_mass = search.before.mass + Weigher::mass(w.weight(x));
    });
    __syncthreads();
    if (threadIdx.x == 0) s.listed = 0;
  }
  row.cluster.sync();
  const Shared& first = *row.cluster.map_shared_rank(&s, 0);
  return {first.threshold, first.threshold_mass};
}

}  // namespace trireme::cuda::sampling
