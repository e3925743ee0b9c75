// The worst token of the smallest set of best tokens that reaches a count or a mass: by histograms over the
// cluster until few candidates are left, which the first block sorts out.
#pragma once
#include "backends/cuda/smxx/sample_row.cuh"

namespace trireme::cuda::sampling {

// One step of a search: the first lane whose sum, after those of the lanes before it, reaches what is wanted;
// -1 if none does. `search` then goes on within that lane's tokens, else after those of all lanes.
__device__ inline int reach(Search& search, const Sum& mine) {
  const Sum upto = warp_prefix(mine);
  const bool reached = search.by_count ? search.before.count + upto.count >= search.wanted
                                       : search.before.mass + upto.mass >= search.wanted;
  const uint32_t lanes = __ballot_sync(~0u, reached);
  const int first = lanes != 0 ? __ffs(static_cast<int>(lanes)) - 1 : kLanes - 1;
  search.before += from_lane(upto, first);
  if (lanes == 0) return -1;
  const Sum own = from_lane(mine, first);
  search.before.mass -= own.mass;
  search.before.count -= own.count;
  search.count = own.count;
  return first;
}

// The bucket in which the search ends, which then is a search within it; -1 if it ends in none, and
// `search.before` is the sum of all. The histogram is that of the first `blocks` blocks together, whose
// groups are summed. All threads of a block.
template <int N>
__device__ int find(Row& row, Histogram<N>& own, int blocks, Search& search) {
  Shared& s = row.s;
  if (threadIdx.x < kLanes) {
    const int lane = threadIdx.x;
    const auto from = [&](int b) -> Histogram<N>& { return blocks == 1 ? own : row.of(own, b); };
    Sum sum = {0, 0};
    for (int b = 0; b < blocks; ++b) sum += from(b).group[lane];
    const int group = reach(search, sum);
    int bucket = -1;
    for (int first = group * (N / kLanes); group >= 0 && bucket < 0; first += kLanes) {
      sum = {0, 0};
      for (int b = 0; b < blocks; ++b) sum += from(b).at(first + lane);
      const int found = reach(search, sum);
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
      high = max(high, row.of(s.highest, b));
      low = min(low, row.of(s.lowest, b));
    }
  }
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

// Ends a search among the n candidates in this block's list. One block.
__device__ inline void finish(Row& row, const Weigher& w, Search& search, uint32_t n) {
  Shared& s = row.s;
  const auto candidates = [&](auto f) {
    for (uint32_t i = threadIdx.x; i < n; i += kThreads) f(value_of(s.list[i]), id_of(s.list[i]));
  };
  uint64_t low = 0, high = 0;
  search.count = n;
  narrow<false>(row, w, search, kLanes, low, high, candidates);
  if (threadIdx.x == 0) s.listed = 0;
  __syncthreads();
  // At most a warp's worth: each lane looks at what is better than its candidate.
  candidates([&](float x, int id) {
    const uint64_t rank = rank_of(x, id);
    if (rank >= low && rank <= high) s.warp_high[atomicAdd(&s.listed, 1)] = rank;
  });
  __syncthreads();
  if (threadIdx.x >= kLanes) return;
  const uint32_t left = s.listed;
  const uint64_t rank = threadIdx.x < left ? s.warp_high[threadIdx.x] : 0;
  const uint64_t mass = threadIdx.x < left ? Weigher::mass(w.weight(value_of(rank))) : 0;
  Sum before = search.before;
  for (int i = 0; i < static_cast<int>(left); ++i) {
    const uint64_t other = __shfl_sync(~0u, rank, i), other_mass = __shfl_sync(~0u, mass, i);
    if (other > rank) before += {other_mass, 1};
  }
  const uint64_t under = search.by_count ? before.count : before.mass,
                 upto = search.by_count ? before.count + 1 : before.mass + mass;
  if (threadIdx.x < left && under < search.wanted && search.wanted <= upto) {
    s.threshold = rank;
    s.threshold_mass = before.mass + mass;
  }
  __syncwarp();
  if (threadIdx.x == 0) s.listed = 0;
}

// Sums Shared::whole, to which everything has been added, for select. All threads of the cluster. The mass.
__device__ inline uint64_t sum_whole(Row& row) {
  __syncthreads();
  row.s.whole.sum_groups();
  row.cluster.sync();
  uint64_t mass = 0;
  for (int b = 0; b < row.blocks(); ++b) mass += row.of(row.s.whole, b).group[threadIdx.x % kLanes].mass;
  for (int d = kLanes / 2; d > 0; d /= 2) mass += __shfl_xor_sync(~0u, mass, d);
  return mass;
}

// The worst token of those that are wanted. Shared::whole is summed. All threads of the cluster.
__device__ inline Threshold select(Row& row, const Weigher& w, bool by_count, uint64_t wanted) {
  Shared& s = row.s;
  Search search = {by_count, wanted, {0, 0}, 0};
  const int bucket = find(row, s.whole, row.blocks(), search);
  if (bucket < 0) return {0, search.before.mass};  // less than what is wanted: all stay
  uint64_t low = 0, high = ~uint64_t{0};
  const auto members = [&](auto f) {
#pragma unroll 4
    for (int i = 0; i < row.mine; ++i)
      if (w.bucket(row.x[i]) == bucket) f(row.x[i], row.first_id + i);
  };
  uint64_t* const list = &row.of(s.list[0], 0);
  uint32_t* const listed = &row.of(s.listed, 0);
  const auto gather = [&] {
    members([&](float x, int id) {
      const uint64_t rank = rank_of(x, id);
      if (rank < low || rank > high) return;
      const uint32_t at = atomicAdd(listed, 1);
      if (at < kList) list[at] = rank;
    });
    row.cluster.sync();
    return *listed;
  };
  uint32_t n = gather();
  if (n > kList) {  // many equal logits
    search.count = n;
    narrow<true>(row, w, search, kList, low, high, members);
    row.cluster.sync();
    if (row.cluster.block_rank() == 0 && threadIdx.x == 0) s.listed = 0;
    row.cluster.sync();
    n = gather();
  }
  if (row.cluster.block_rank() == 0) finish(row, w, search, n);
  row.cluster.sync();
  return {row.of(s.threshold, 0), row.of(s.threshold_mass, 0)};
}

}  // namespace trireme::cuda::sampling
