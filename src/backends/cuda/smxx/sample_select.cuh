// The worst token of the smallest set of best tokens that reaches a count or a mass: by histograms over the
// cluster until few candidates are left, which the first block sorts out.
#pragma once
#include "backends/cuda/smxx/sample_row.cuh"

namespace trireme::cuda::sampling {

// One step of a search: the first lane whose sum, after those of the lanes before it, reaches what is wanted;
// -1 if none does. `search` then goes on within that lane's tokens, else after those of all lanes.
__device__ inline int reach(Search& search, const Sum& mine) {
  const uint64_t key = search.by_count ? mine.count : mine.mass,
                 other = search.by_count ? mine.mass : mine.count, upto = search.before + warp_prefix(key);
  const uint32_t lanes = __ballot_sync(~0u, upto >= search.wanted);
  const int first = lanes != 0 ? __ffs(static_cast<int>(lanes)) - 1 : kLanes;
  search.other += warp_sum(static_cast<int>(threadIdx.x % kLanes) < first ? other : 0);
  search.before = __shfl_sync(~0u, lanes != 0 ? upto - key : upto, min(first, kLanes - 1));
  if (lanes == 0) return -1;
  search.count = __shfl_sync(~0u, static_cast<uint32_t>(mine.count), first);
  return first;
}

// The bucket in which the search ends, which then is a search within it; -1 if it ends in none, and
// the search has the sums of all. The histogram is that of the first `blocks` blocks together, whose
// groups are summed. All threads of a block.
template <int N>
__device__ int find(Row& row, Histogram<N>& own, int blocks, Search& search) {
  Shared& s = row.s;
  if (threadIdx.x < kLanes) {
    const int lane = threadIdx.x;
    // The reads of four blocks are on the way together.
    const auto over_blocks = [&](auto part) {
      Sum sum = {0, 0};
      for (int begin = 0; begin < blocks; begin += 4) {
#pragma unroll
        for (int b = begin; b < begin + 4; ++b)
          if (b < blocks) sum += part(row.of(own, b));
      }
      return sum;
    };
    const int group = reach(search, over_blocks([&](const Histogram<N>& h) { return h.group[lane]; }));
    int bucket = -1;
    for (int first = group * (N / kLanes); group >= 0 && bucket < 0; first += kLanes) {
      const int found = reach(search, over_blocks([&](const Histogram<N>& h) { return h.at(first + lane); }));
      if (found >= 0) bucket = first + found;
    }
    if (lane == 0) {
      s.found = search;
      s.found_bucket = bucket;
    }
  }
  __syncthreads();
  search = s.found;
  const int bucket = s.found_bucket;
  __syncthreads();  // everyone has read it before the next search writes
  return bucket;
}

__device__ inline uint64_t block_max(uint64_t v, Shared& s) {
  v = warp_max(v);
  __syncthreads();
  if (threadIdx.x % kLanes == 0) s.warp_high[threadIdx.x / kLanes] = v;
  __syncthreads();
  return warp_max(s.warp_high[threadIdx.x % kLanes]);
}

// The lowest and the highest rank of the tokens of each(f), which calls f(x, id). All threads of the cluster.
template <class Each>
__device__ void range_of(Row& row, uint64_t& low, uint64_t& high, Each each) {
  uint64_t top = 0, bottom = 0;  // bottom: of the complements
  each([&](float x, int id) {
    top = max(top, rank_of(x, id));
    bottom = max(bottom, ~rank_of(x, id));
  });
  top = block_max(top, row.s);
  bottom = block_max(bottom, row.s);
  if (threadIdx.x == 0) {
    row.s.highest = top;
    row.s.lowest = bottom;
  }
  row.cluster.sync();
  high = warp_max(of_blocks(row, row.s.highest, uint64_t{0}));
  low = ~warp_max(of_blocks(row, row.s.lowest, uint64_t{0}));
}

// Narrows a search to ranks [low, high] that hold at most `enough` tokens. each(f) calls f(x, id) for the
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
  while (search.count > enough) {
    const int shift = max(0, 64 - __clzll(static_cast<long long>(high - low)) - 10);
    meet();  // nobody reads the last histogram any more
    s.part.clear();
    __syncthreads();
    each([&](float x, int id) {
      const uint64_t rank = rank_of(x, id);
      if (rank < low || rank > high) return;
      const int bucket = static_cast<int>((high - rank) >> shift);
      s.part.add_mass(bucket, Weigher::mass(w.weight(x)));
      s.part.add_count(bucket);
    });
    __syncthreads();
    s.part.sum_groups();
    meet();
    const int bucket = find(row, s.part, kWhole ? row.blocks() : 1, search);
    high -= static_cast<uint64_t>(bucket) << shift;
    low = max(low, high - ((uint64_t{1} << shift) - 1));
  }
}

struct Threshold {
  uint64_t rank;  // the worst token that stays
  uint64_t mass;  // of all that stay, if masses were added
};

// Ends a search among the n candidates in the blocks' lists, whose ranks are in [low, high]. One block.
__device__ inline void finish(Row& row, const Weigher& w, Search& search, uint32_t n, uint64_t low,
                              uint64_t high) {
  Shared& s = row.s;
  const auto candidates = [&](auto f) {
    for (int b = 0; b < row.blocks(); ++b) {
      if (threadIdx.x >= row.of(s.listed, b)) continue;
      const uint64_t rank = row.of(s.list[threadIdx.x], b);
      f(value_of(rank), id_of(rank));
    }
  };
  search.count = n;
  narrow<false>(row, w, search, kLanes, low, high, candidates);
  if (threadIdx.x == 0) s.left = 0;
  __syncthreads();
  // At most a warp's worth: each lane looks at what is better than its candidate.
  candidates([&](float x, int id) {
    const uint64_t rank = rank_of(x, id);
    if (rank >= low && rank <= high) s.warp_high[atomicAdd(&s.left, 1)] = rank;
  });
  __syncthreads();
  if (threadIdx.x >= kLanes) return;
  const uint32_t left = s.left;
  const uint64_t rank = threadIdx.x < left ? s.warp_high[threadIdx.x] : 0;
  const uint64_t mass = threadIdx.x < left ? Weigher::mass(w.weight(value_of(rank))) : 0;
  uint64_t before_mass = search.by_count ? search.other : search.before, before_count = search.before;
  for (int i = 0; i < static_cast<int>(left); ++i) {
    const uint64_t other = __shfl_sync(~0u, rank, i), other_mass = __shfl_sync(~0u, mass, i);
    if (other > rank) {
      before_mass += other_mass;
      ++before_count;
    }
  }
  const uint64_t under = search.by_count ? before_count : before_mass,
                 upto = under + (search.by_count ? 1 : mass);
  if (threadIdx.x < left && under < search.wanted && search.wanted <= upto) {
    s.threshold = rank;
    s.threshold_mass = before_mass + mass;
  }
}

// Sums Shared::whole, to which everything has been added, for select. All threads of the cluster. The mass.
__device__ inline uint64_t sum_whole(Row& row) {
  __syncthreads();
  row.s.whole.sum_groups();
  row.cluster.sync();
  uint64_t mass = 0;
  for (int b = 0; b < row.blocks(); ++b) mass += row.of(row.s.whole, b).group[threadIdx.x % kLanes].mass;
  return warp_sum(mass);
}

// The worst token of those that are wanted. Shared::whole is summed. All threads of the cluster.
__device__ inline Threshold select(Row& row, const Weigher& w, bool by_count, uint64_t wanted) {
  Shared& s = row.s;
  Search search = {by_count, wanted};
  const int bucket = find(row, s.whole, row.blocks(), search);
  if (bucket < 0) return {0, by_count ? search.other : search.before};  // less than what is wanted: all stay
  const bool open = bucket == kBuckets - 1;                             // to below
  const float begin = static_cast<float>(bucket), end = begin + 1;
  // Generous ends: rounding moves places by less than a hundredth.
  const float least = open ? -INFINITY : __fsub_rd(w.best, (end + 0.01f) / w.step);
  uint64_t low = rank_of(least, INT_MAX), high = rank_of(__fsub_ru(w.best, (begin - 0.01f) / w.step), 0);
  const auto members = [&](auto f) {
#pragma unroll 4
    for (int i = 0; i < row.mine; ++i) {
      const float x = row.x[i], place = w.place(x);
      if (place >= begin && (open || place < end)) f(x, row.first_id + i);
    }
  };
  static_assert(kList <= kThreads);
  const auto gather = [&] {  // how many there are in each block, one a lane
    members([&](float x, int id) {
      const uint64_t rank = rank_of(x, id);
      if (rank < low || rank > high) return;
      const uint32_t at = atomicAdd(&s.listed, 1);
      if (at < kList) s.list[at] = rank;
    });
    row.cluster.sync();
    return of_blocks(row, s.listed, 0u);
  };
  const auto reset = [&] {  // the lists have been read by all
    row.cluster.sync();
    if (threadIdx.x == 0) s.listed = 0;
  };
  uint32_t listed = gather();
  if (__reduce_max_sync(~0u, listed) > kList) {  // many equal logits
    search.count = __reduce_add_sync(~0u, listed);
    reset();
    range_of(row, low, high, members);
    narrow<true>(row, w, search, kList, low, high, members);
    listed = gather();
  }
  if (row.cluster.block_rank() == 0) finish(row, w, search, __reduce_add_sync(~0u, listed), low, high);
  reset();
  return {row.of(s.threshold, 0), row.of(s.threshold_mass, 0)};
}

}  // namespace trireme::cuda::sampling
