// Merges the pieces of rows whose context was cut among parts.
#pragma once
#include "backends/cuda/sm90/mla_decode/config.cuh"
#include "backends/cuda/sm90/mla_decode/fragment.cuh"
#include "backends/cuda/sm90/mla_decode/mla_decode.h"

namespace trireme::cuda::mla {

inline constexpr int kCombineThreads = 256;
static_assert(kCombineThreads >= kMlaDecodeMaxMultiprocessors);  // a thread a piece
inline constexpr int kCombineQuarters = 4;                       // of a row
inline constexpr int kCombineColumns = 128;                      // of one warp: a float4 a lane
inline constexpr int kCombineFewPieces = 12;  // that many or fewer: one warp merges them all

__device__ __forceinline__ float warp_max(float x) {
  for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}
__device__ __forceinline__ float warp_total(float x) {
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}

struct CombineRow {
  const Params& p;
  const Cut& cut;
  int tile, row, quarter;  // row of the tile; quarter of the columns

  __device__ int at(int piece) const {
    const int slot = 2 * (cut.first + piece) + (piece == 0 ? 1 : 0);
    return (slot * p.layout.tiles + tile) * kTileRows + row;
  }
  __device__ __forceinline__ void add(float4& total, int piece, float weight, int lane) const {
    const float4 x = reinterpret_cast<const float4*>(
        p.partials.out + static_cast<std::int64_t>(at(piece)) * kLatent + quarter * kCombineColumns)[lane];
    total.x += weight * x.x;
    total.y += weight * x.y;
    total.z += weight * x.z;
    total.w += weight * x.w;
  }
  // The weighted sum over all pieces, of which there are few.
  __device__ float4 sum(float reference, int lane) const {
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = 0; i < cut.pieces; ++i) add(total, i, exp2_approx(p.partials.lse[at(i)] - reference), lane);
    return total;
  }
  // The log2 sum over all pieces; -inf where nothing is seen.
  __device__ float merged_lse(int lane) const {
    float high = -INFINITY;
    for (int i = lane; i < cut.pieces; i += 32) high = fmaxf(high, p.partials.lse[at(i)]);
    high = warp_max(high);
    if (high == -INFINITY) return high;
    float sum = 0;
    for (int i = lane; i < cut.pieces; i += 32) sum += exp2_approx(p.partials.lse[at(i)] - high);
    return high + log2f(warp_total(sum));
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
    r.write(unit, r.sum(lse == -INFINITY ? 0 : lse, lane), lse, lane);
    return;
  }
  __shared__ float4 sums[kCombineThreads / 32][32];
  __shared__ float weight[kCombineThreads], warp_high[kCombineThreads / 32], warp_sum[kCombineThreads / 32];
  const int thread = static_cast<int>(threadIdx.x);
  for (int item = share; item < rows * 4; item += shares) {
    const CombineRow r{p, cut, tile, item / 4, item % 4};
    // A thread a piece: every load is on its way at once.
    const float mine = thread < cut.pieces ? p.partials.lse[r.at(thread)] : -INFINITY;
    float high = warp_max(mine);
    __syncthreads();  // what the item before had here is read
    if (lane == 0) warp_high[warp] = high;
    __syncthreads();
    high = warp_high[0];
    for (int w = 1; w < kCombineThreads / 32; ++w) high = fmaxf(high, warp_high[w]);
    const float part = high == -INFINITY ? 0.0f : exp2_approx(mine - high);
    weight[thread] = part;
    float total_weight = warp_total(part);
    if (lane == 0) warp_sum[warp] = total_weight;
    __syncthreads();
    total_weight = 0;
    for (const float x : warp_sum) total_weight += x;
    const float over = total_weight > 0 ? 1 / total_weight : total_weight;  // NaN stays
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 16
    for (int i = warp; i < cut.pieces; i += kCombineThreads / 32) r.add(total, i, weight[i] * over, lane);
    sums[warp][lane] = total;
    __syncthreads();
    if (warp != 0) continue;
    for (int w = 1; w < kCombineThreads / 32; ++w) {
      total.x += sums[w][lane].x;
      total.y += sums[w][lane].y;
      total.z += sums[w][lane].z;
      total.w += sums[w][lane].w;
    }
    r.write(unit, total, total_weight > 0 ? high + log2f(total_weight) : high, lane);
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
