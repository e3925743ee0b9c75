#pragma once
// When tiles are few or do not divide evenly, CTAs share some by their K: in slices (piece_walk.cuh), or the
// steps of all tiles are laid end to end and dealt in equal runs (SplitRuns, thin_walk.cuh). The CTAs that
// share a tile leave their sums in global memory (they stay in L2), and whoever comes last adds them in the
// order of K and stores. Nobody waits for anybody, no CTA need be resident with another, and the sums have
// the same bits in every run.
//
// The unit of arriving is a warp: warp w of each CTA holds the same part of the tile, so the part is summed
// by whichever warp w came last, and no CTA-wide barrier is needed.

#include <cstdint>

namespace trireme::cuda {

// Of a workspace the first bytes are counters, as many for every kernel, so that kernels of any tile may use
// it in turn: zero before the first launch, and left zero by each. The last one counts the tiles taken
// (piece_walk.cuh).
inline constexpr int kSplitSumMaxCtas = 512, kSplitSumMaxWarps = 16;
inline constexpr std::int64_t kTakenOffset = kSplitSumMaxCtas * kSplitSumMaxWarps * 4;
inline constexpr std::int64_t kSplitSumCounterBytes = kTakenOffset + 128;

// A CTA leaves sums of at most two tiles: of the one that its run begins with, and of the one that it ends
// in.
constexpr std::int64_t split_sum_bytes(int ctas, std::int64_t tile_floats) {
  return kSplitSumCounterBytes + 2 * ctas * tile_floats * 4;
}

// REQUIRES: a workspace of kSplitSumCounterBytes at least.
inline std::uint32_t* taken_counter(void* workspace) {
  return reinterpret_cast<std::uint32_t*>(static_cast<char*>(workspace) + kTakenOffset);
}

struct SplitSumPlace {
  std::uint32_t* counters;  // [kSplitSumMaxCtas][kSplitSumMaxWarps]: by the first CTA of a shared tile
  float4* sums;             // [ctas][2][warps][groups][32 lanes]
};

// `units` of work dealt to `ctas` CTAs in runs that differ by one at most.
struct SplitRuns {
  std::uint32_t least, longer;  // units of a run; so many runs, the first ones, have one more

  __device__ SplitRuns(std::uint32_t units, std::uint32_t ctas) : least(units / ctas), longer(units % ctas) {}
  __device__ std::uint32_t begin(std::uint32_t cta) const { return cta * least + min(cta, longer); }
  // REQUIRES: unit < units.
  __device__ int owner(std::uint32_t unit) const {
    const std::uint32_t in_longer = longer * (least + 1);
    return static_cast<int>(unit < in_longer ? unit / (least + 1) : longer + (unit - in_longer) / least);
  }
};

// The CTAs that share a tile, in the order of K.
struct SplitShare {
  int first, last;
  bool first_ends;  // the tile is not what the first CTA's run begins with
  __device__ int slot(int cta) const { return 2 * cta + (cta == first && first_ends ? 1 : 0); }
};

__device__ __forceinline__ SplitShare share_of(const SplitRuns& runs, std::uint32_t tile_begin,
                                               std::uint32_t tile_units) {
  const int first = runs.owner(tile_begin);
  return {first, runs.owner(tile_begin + tile_units - 1),
          runs.begin(static_cast<std::uint32_t>(first)) < tile_begin};
}

__device__ __forceinline__ std::uint32_t arrive_acq_rel(std::uint32_t* counter) {
  std::uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Of a tile a warp holds kGroups groups of 4 floats a lane, the first `used` of which matter; kWarps warps
// hold all of it.
// kParked: acc is not in registers, so that loops may go over it.
template <int kWarps, int kGroups, bool kParked = false>
class SplitSum {
 public:
  static_assert(kWarps <= kSplitSumMaxWarps);

  // Every lane of the warp. True for the last of the warps that share: acc is then the sum of all.
  __device__ static bool add(float (&acc)[4 * kGroups], const SplitSumPlace& place, const SplitShare& share,
                             int cta, int warp, int used) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float4* mine = words(place, share.slot(cta), warp);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      if (i < used)
        __stcg(mine + 32 * i, make_float4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]));
    }
    __syncwarp();
    std::uint32_t before = 0;
    std::uint32_t* counter = place.counters + share.first * kSplitSumMaxWarps + warp;
    if (lane == 0) before = arrive_acq_rel(counter);
    before = __shfl_sync(~0u, before, 0);
    if (before != static_cast<std::uint32_t>(share.last - share.first)) return false;
    if (lane == 0) *counter = 0;
    __syncwarp();  // what lane 0 saw arrive, all see
    if constexpr (kParked) {
#pragma unroll 1
      for (int c = 0; c < kGroups; c += kChunk) add_chunk(acc, c, place, share, cta, warp, used);
    } else {
#pragma unroll
      for (int c = 0; c < kGroups; c += kChunk) add_chunk(acc, c, place, share, cta, warp, used);
    }
    return true;
  }

 private:
  // Loads on their way at once: of kChunk groups of kBatch CTAs.
  static constexpr int kMost = kParked ? 16 : 8;
  static constexpr int kChunk = kGroups < kMost ? kGroups : kMost, kBatch = 2 * kMost / kChunk;

  __device__ static float4* words(const SplitSumPlace& place, int slot, int warp) {
    return place.sums + (static_cast<std::int64_t>(slot) * kWarps + warp) * kGroups * 32 + threadIdx.x % 32;
  }

  __device__ __forceinline__ static void add_chunk(float (&acc)[4 * kGroups], int chunk,
                                                   const SplitSumPlace& place, const SplitShare& share,
                                                   int cta, int warp, int used) {
    float sum[4 * kChunk] = {};
    for (int from = share.first; from <= share.last; from += kBatch) {
      float4 v[kBatch][kChunk];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const float4* theirs = words(place, share.slot(from + b), warp) + 32 * chunk;
        const bool other = from + b <= share.last && from + b != cta;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          v[b][i] = other && chunk + i < used ? __ldcg(theirs + 32 * i) : make_float4(0, 0, 0, 0);
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const bool own = from + b == cta;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          const float* a = &acc[4 * (chunk + i)];
          sum[4 * i] += own ? a[0] : v[b][i].x;
          sum[4 * i + 1] += own ? a[1] : v[b][i].y;
          sum[4 * i + 2] += own ? a[2] : v[b][i].z;
          sum[4 * i + 3] += own ? a[3] : v[b][i].w;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4 * kChunk; ++i) acc[4 * chunk + i] = sum[i];
  }
};

}  // namespace trireme::cuda
