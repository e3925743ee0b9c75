#pragma once
// When tiles are few or do not divide evenly: the steps of K of all tiles, laid end to end, are dealt to the
// CTAs in equal runs, so that a tile may be shared. The CTAs that share one leave their sums in global memory
// (they stay in L2), and whoever comes last adds them in the order of K and stores. Nobody waits for anybody,
// no CTA need be resident with another, and the sums have the same bits in every run.
//
// The unit of arriving is a warp: warp w of each CTA holds the same part of the tile, so the part is summed by
// whichever warp w came last, and no CTA-wide barrier is needed.

#include <cstdint>

namespace trireme::cuda {

// Of a workspace the first bytes are counters, as many for every kernel, so that kernels of any tile may use it
// in turn: zero before the first launch, and left zero by each.
inline constexpr int kSplitSumMaxCtas = 512;
inline constexpr std::int64_t kSplitSumCounterBytes = kSplitSumMaxCtas * 16 * 4;

// A CTA leaves sums of at most two tiles: of the one that its run begins with, and of the one that it ends in.
struct SplitSumPlace {
  std::uint32_t* counters;  // [ctas][warps]: by the first CTA of a shared tile
  float4* sums;             // [ctas][2][warps][4 floats a group][32 lanes]
};

// Steps of K of all tiles, dealt to `ctas` CTAs. REQUIRES: steps >= ctas >= 1.
struct SplitRuns {
  std::int64_t steps;
  int ctas;

  __device__ std::int64_t begin(int cta) const { return cta * steps / ctas; }
  __device__ int owner(std::int64_t step) const {
    return static_cast<int>(((step + 1) * ctas - 1) / steps);
  }
};

// The CTAs that share a tile.
struct SplitShare {
  int first, last;   // CTAs, in the order of K
  bool first_ends;   // the tile is not what the first CTA's run begins with
  __device__ bool alone() const { return first == last; }
  __device__ int slot(int cta) const { return 2 * cta + (cta == first && first_ends ? 1 : 0); }
};

__device__ __forceinline__ SplitShare share_of(const SplitRuns& runs, std::int64_t tile_begin,
                                               int tile_steps) {
  const int first = runs.owner(tile_begin);
  return {first, runs.owner(tile_begin + tile_steps - 1), runs.begin(first) < tile_begin};
}

__device__ __forceinline__ std::uint32_t arrive_acq_rel(std::uint32_t* counter) {
  std::uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// What a warp holds of a tile: kBlocks blocks of kGroups groups of 4 floats a lane, of which the first `used`
// of each block matter.
template <int kWarps, int kBlocks, int kGroups>
class SplitSum {
 public:
  static constexpr int kFloats = 4 * kBlocks * kGroups;
  static constexpr std::int64_t kWarpWords = std::int64_t{32} * kBlocks * kGroups;  // float4

  static_assert(kWarps <= 16);

  // Of the workspace of a launch on `ctas` CTAs, at most kSplitSumMaxCtas.
  __host__ static constexpr std::int64_t bytes(int ctas) {
    return kSplitSumCounterBytes + 2 * kWarps * kWarpWords * 16 * ctas;
  }

  // Every lane of the warp. True for the last of the warps that share: acc is then the sum of all.
  __device__ static bool add(float (&acc)[kFloats], const SplitSumPlace& place, const SplitShare& share,
                             int cta, int warp, int used) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float4* mine = words(place, share.slot(cta), warp) + lane;
#pragma unroll
    for (int i = 0; i < kBlocks * kGroups; ++i) {
      if (i % kGroups >= used) continue;
      __stcg(mine + 32 * i, make_float4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]));
    }
    __syncwarp();
    std::uint32_t before = 0;
    std::uint32_t* counter = place.counters + share.first * kWarps + warp;
    if (lane == 0) before = arrive_acq_rel(counter);
    before = __shfl_sync(~0u, before, 0);
    if (before != static_cast<std::uint32_t>(share.last - share.first)) return false;
    if (lane == 0) *counter = 0;
#pragma unroll
    for (int c = 0; c < kBlocks * kGroups; c += kChunk) add_chunk(acc, c, place, share, cta, warp, used);
    return true;
  }

 private:
  // Loads on their way at once, of kChunk groups of kBatch CTAs: enough to fill the path to L2.
  static constexpr int kChunk = kBlocks * kGroups < 4 ? kBlocks * kGroups : 4, kBatch = 16 / kChunk;

  __device__ static float4* words(const SplitSumPlace& place, int slot, int warp) {
    return place.sums + (static_cast<std::int64_t>(slot) * kWarps + warp) * kWarpWords;
  }

  __device__ __forceinline__ static void add_chunk(float (&acc)[kFloats], int chunk, const SplitSumPlace& place,
                                                   const SplitShare& share, int cta, int warp, int used) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float sum[4 * kChunk] = {};
    for (int from = share.first; from <= share.last; from += kBatch) {
      float4 v[kBatch][kChunk];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (from + b > share.last || from + b == cta) continue;
        const float4* theirs = words(place, share.slot(from + b), warp) + 32 * chunk + lane;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          if ((chunk + i) % kGroups < used) v[b][i] = __ldcg(theirs + 32 * i);
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (from + b > share.last) continue;
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
