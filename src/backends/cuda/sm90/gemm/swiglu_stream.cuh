#pragma once
// Tiles for CTAs where a few are left over, as with experts of uneven loads: after a round of whole tiles, or
// none, the steps of K of what remains, between one and two tiles a CTA, lie end to end and are dealt in
// equal runs. A run that begins within a tile leaves that tile's sums in global memory (they stay in L2); the
// run before, which ends in this tile, comes to it last and adds them.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/sm90/gemm/split_sum.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda::fused {

// Steps of K of one tile.
struct Segment {
  GemmTilePlace tile;
  int first, count;
};

// Every warp of a CTA walks for itself, converged, and all see the same. REQUIRES: at most 32 experts; lane l
// holds expert l.
template <int kBm, int kBn>
class StreamWalk {
 public:
  __device__ explicit StreamWalk(const GemmParams& p)
      : p_(p), n_blocks_(p.n / kBn), ctas_(static_cast<int>(gridDim.x)), cta_(static_cast<int>(blockIdx.x)) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const bool exists = lane < p.experts;
    if (p.layout == RowLayout::packed) {
      const int end = exists ? min(p.counts[lane], p.rows) : 0;
      start_ = __shfl_up_sync(~0u, end, 1);
      if (lane == 0) start_ = 0;
      if (exists) count_ = max(end - start_, 0);
    } else if (exists) {
      const bool masked = p.layout == RowLayout::masked;
      const int most = masked ? p.max_m : p.rows;
      start_ = masked ? lane * p.max_m : 0;
      count_ = p.counts == nullptr ? most : max(min(p.counts[lane], most), 0);
    }
    through_ = (count_ + kBm - 1) / kBm * n_blocks_;
    for (int d = 1; d < 32; d *= 2) {
      const int below = __shfl_up_sync(~0u, through_, d);
      if (lane >= d) through_ += below;
    }
    tiles_ = __shfl_sync(~0u, through_, 31);
    rounds_ = (tiles_ + ctas_ - 1) / ctas_;
    const int rest = tiles_ % ctas_;
    // Neighbours in a run read the same weights at different times, and pay for that with reads that miss L2:
    // only where a whole round for the rest would be long beside that.
    if (tiles_ < ctas_ || tiles_ >= 3 * ctas_ || rest == 0 || 2 * rest > ctas_ ||
        p.k_blocks < 4 * kLeastSteps)
      return;
    rounds_ = tiles_ / ctas_ - 1;
    at_ = bound(cta_);
    end_ = bound(cta_ + 1);
  }

  __device__ bool next(Segment& s) {
    if (round_ < rounds_) {
      const int tile = cta_ + round_++ * ctas_;
      if (tile >= tiles_) return false;
      place(tile, s.tile);
      s.first = 0;
      s.count = p_.k_blocks;
      return true;
    }
    if (at_ >= end_) return false;
    s.first = at_ % p_.k_blocks;
    s.count = min(p_.k_blocks - s.first, end_ - at_);
    place(rounds_ * ctas_ + at_ / p_.k_blocks, s.tile);
    at_ += s.count;
    return true;
  }

 private:
  static constexpr int kLeastSteps = 4;  // of a part of a tile

  // Where CTA i's run begins.
  __device__ int bound(int i) const {
    const int k = p_.k_blocks;
    const int units = (tiles_ - rounds_ * ctas_) * k;
    const auto u = static_cast<int>(static_cast<std::int64_t>(units) * i / ctas_);
    const int in_tile = u % k;
    if (in_tile < kLeastSteps) return u - in_tile;
    return k - in_tile < kLeastSteps ? u + k - in_tile : u;
  }

  __device__ void place(int tile, GemmTilePlace& place) const {
    const int e = __popc(__ballot_sync(~0u, through_ <= tile));
    const int before = __shfl_sync(~0u, through_, e == 0 ? 0 : e - 1);
    const int start = __shfl_sync(~0u, start_, e), count = __shfl_sync(~0u, count_, e);
    const int t = tile - (e == 0 ? 0 : before);
    const int first = t / (p_.group_m * n_blocks_) * p_.group_m;
    const int height = min(p_.group_m, (count + kBm - 1) / kBm - first);
    const int in_group = t - first * n_blocks_, block_n = in_group / height;
    const int block_m = first + in_group - block_n * height;
    place.expert = e;
    place.row = start + block_m * kBm;
    place.rows = count - block_m * kBm;
    place.col = block_n * kBn;
  }

  const GemmParams& p_;
  const int n_blocks_, ctas_, cta_;
  int start_ = 0, count_ = 0, through_ = 0;  // this lane's expert: first row, rows, tiles through it
  int tiles_ = 0, rounds_ = 0, round_ = 0;
  int at_ = 0, end_ = 0;  // this CTA's run: steps behind the whole rounds
};

// A warpgroup's sums of gate and up on their way from one CTA to the one before. Flags are zero before the
// first launch and after each.
inline constexpr int kMostStreamCtas = kSplitSumMaxCtas;
inline constexpr std::int64_t kStreamFlagBytes = kSplitSumCounterBytes;  // so that one workspace serves all
static_assert(kStreamFlagBytes >= kMostStreamCtas * 2 * 4);
inline constexpr std::int64_t kStreamSumBytes =
    2 * 128 * 128 * 4;  // of one CTA, [warpgroup][32][128 threads]

class StreamSums {
 public:
  // workspace: flags, then [ctas] sums. none: always_zero.
  __device__ StreamSums(void* workspace, int warpgroup, std::uint32_t none)
      : flags_(static_cast<std::uint32_t*>(workspace) + warpgroup),
        sums_(reinterpret_cast<float4*>(static_cast<char*>(workspace) + kStreamFlagBytes) +
              warpgroup * kFloat4s + threadIdx.x % 128),
        barrier_(static_cast<std::uint32_t>(2 + warpgroup)),
        none_(none) {}

  __device__ void leave(const float (&gate)[64], const float (&up)[64]) const {
    float4* const to = sums_ + static_cast<std::int64_t>(blockIdx.x) * 2 * kFloat4s;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      __stcg(to + i * 128, four(&gate[4 * i]));
      __stcg(to + (16 + i) * 128, four(&up[4 * i]));
    }
    named_barrier_sync(barrier_, 128);
    if (threadIdx.x % 128 == 0)
      asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flags_ + 2 * blockIdx.x) : "memory");
  }

  // Adds what the next CTA left.
  __device__ void add(float (&gate)[64], float (&up)[64]) const {
    std::uint32_t* const flag = flags_ + 2 * (blockIdx.x + 1);
    if (threadIdx.x % 128 == 0) {
      std::uint32_t there = 0;
      while (there == 0)
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(flag) : "memory");
    }
    named_barrier_sync(barrier_, 128);
    const float4* const from = sums_ + static_cast<std::int64_t>(blockIdx.x + 1) * 2 * kFloat4s;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float4 g = __ldcg(from + i * 128), u = __ldcg(from + (16 + i) * 128);
      gate[4 * i] += g.x, gate[4 * i + 1] += g.y, gate[4 * i + 2] += g.z, gate[4 * i + 3] += g.w;
      up[4 * i] += u.x, up[4 * i + 1] += u.y, up[4 * i + 2] += u.z, up[4 * i + 3] += u.w;
    }
    if (threadIdx.x % 128 == 0) *static_cast<volatile std::uint32_t*>(flag) = 0;
  }

 private:
  static constexpr int kFloat4s = 32 * 128;  // of a warpgroup
  __device__ float4 four(const float* v) const {
    return make_float4(elsewhere(v[0], none_), elsewhere(v[1], none_), elsewhere(v[2], none_),
                       elsewhere(v[3], none_));
  }
  std::uint32_t* const flags_;
  float4* const sums_;
  const std::uint32_t barrier_, none_;
};

}  // namespace trireme::cuda::fused
