// Merges the pieces of rows whose context was cut among parts.
#pragma once
#include "backends/cuda/sm90/mla_decode/config.cuh"
#include "backends/cuda/sm90/mla_decode/fragment.cuh"

namespace trireme::cuda::mla {

inline constexpr int kCombineThreads = 256;
inline constexpr int kCombineQuarters = 4;    // of a row
inline constexpr int kCombineColumns = 128;   // of one warp: a float4 a lane
inline constexpr int kCombineFewPieces = 12;  // that many or fewer: one warp merges them all

struct CombineRow {
  const Params& p;
  const Cut& cut;
  int tile, row, quarter;  // row of the tile; quarter of the columns

  __device__ int at(int piece) const {
    const int slot = 2 * (cut.first + piece) + (piece == 0 ? 1 : 0);
    return (slot * p.layout.tiles + tile) * kTileRows + row;
  }
  // Sum of weight * piece over pieces from, from + step, ...
  __device__ float4 sum(int from, int step, float reference, int lane) const {
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = from; i < cut.pieces; i += step) {
      const float weight = exp2_approx(p.partials.lse[at(i)] - reference);
      const float4 x = reinterpret_cast<const float4*>(
          p.partials.out + static_cast<std::int64_t>(at(i)) * kLatent + quarter * kCombineColumns)[lane];
      total.x += weight * x.x;
      total.y += weight * x.y;
      total.z += weight * x.z;
      total.w += weight * x.w;
    }
    return total;
  }
  // The log2 sum over all pieces; -inf where nothing is seen.
  __device__ float merged_lse(int lane) const {
    float high = -INFINITY;
    for (int i = lane; i < cut.pieces; i += 32) high = fmaxf(high, p.partials.lse[at(i)]);
    for (int d = 16; d > 0; d /= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, d));
    if (high == -INFINITY) return high;
    float sum = 0;
    for (int i = lane; i < cut.pieces; i += 32) sum += exp2_approx(p.partials.lse[at(i)] - high);
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return high + log2f(sum);
  }
  __device__ void write(const Unit& unit, float4 x, float lse, int lane) const {
    const std::int64_t q_row = unit.row + tile * kTileRows + row;
    uint2* out = reinterpret_cast<uint2*>(p.out + q_row * p.out_stride + quarter * kCombineColumns);
    out[lane] = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
    if (p.lse != nullptr && quarter == 0 && lane == 0) p.lse[q_row] = lse;
  }
};

// share: of `shares`, at least 4 for every 8 rows.
__device__ __forceinline__ void combine_share(const Params& p, const Cut& cut, const Unit& unit, int tile,
                                              int share, int shares) {
  const int rows = min(unit.rows - tile * kTileRows, kTileRows);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (cut.pieces <= kCombineFewPieces) {
    const CombineRow r{p, cut, tile, share / 4 * 8 + warp, share % 4};
    if (r.row >= rows) return;
    const float lse = r.merged_lse(lane);
    r.write(unit, r.sum(0, 1, lse == -INFINITY ? 0 : lse, lane), lse, lane);
    return;
  }
  __shared__ float4 sums[kCombineThreads / 32][32];
  for (int item = share; item < rows * 4; item += shares) {
    const CombineRow r{p, cut, tile, item / 4, item % 4};
    const float lse = r.merged_lse(lane);
    __syncthreads();
    sums[warp][lane] = r.sum(warp, kCombineThreads / 32, lse == -INFINITY ? 0 : lse, lane);
    __syncthreads();
    if (warp != 0) continue;
    float4 total = sums[0][lane];
    for (int w = 1; w < kCombineThreads / 32; ++w) {
      total.x += sums[w][lane].x;
      total.y += sums[w][lane].y;
      total.z += sums[w][lane].z;
      total.w += sums[w][lane].w;
    }
    r.write(unit, total, lse, lane);
  }
}

// Any grid: CTAs take (cut, tile, share of the rows) in turn. least_shares: that cover the rows of a tile.
__global__ __launch_bounds__(kCombineThreads, 5) void combine_kernel(const Params p, int least_shares) {
  // The plan is older than the kernel that this one waits for.
  const int cuts = *reinterpret_cast<const std::int32_t*>(p.plan + p.layout.cut_count_at());
  const Cut* const all = reinterpret_cast<const Cut*>(p.plan + p.layout.cuts_at());
  const Unit* const units = reinterpret_cast<const Unit*>(p.plan + p.layout.units_at());
  const int grid = static_cast<int>(gridDim.x), tiles = cuts * p.layout.tiles;
  const int shares = tiles == 0 ? 1 : min(max(grid / tiles, least_shares), kTileRows * kCombineQuarters);
  int i = static_cast<int>(blockIdx.x);
  bool waited = false;
  for (; i < tiles * shares; i += grid) {
    const Cut cut = all[i / shares / p.layout.tiles];
    const Unit unit = units[cut.unit];
    if (!waited) grid_dependency_wait();
    waited = true;
    combine_share(p, cut, unit, i / shares % p.layout.tiles, i % shares, shares);
  }
  if (!waited) grid_dependency_wait();
}

}  // namespace trireme::cuda::mla
