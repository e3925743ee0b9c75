#pragma once
// The gate/up GEMM that ends in SwiGLU. As gemm_kernel it is persistent, one warp feeds a ring of stages and
// two warpgroups multiply; a tile is 128 rows by 128 columns of the output, for which a warpgroup keeps 64
// rows of gate and of up. Both sums leave registers for one multiply at a time, so what hides a warpgroup's
// additions is the other's multiplies. Two CTAs may form a pair: their tiles lie below each other, one brings
// the rows of gate to both and one those of up.

#include <cuda.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/gemm/swiglu_step.cuh"

namespace trireme::cuda::fused {

inline constexpr int kBm = 128, kXBytes = kBm * kStepK;
inline constexpr int kScaleBox = kBm + 4;  // up to 3 more than a tile has, see scale_box in kernel.cuh
inline constexpr int kScaleStride = 160;
inline constexpr int kCopiedBytes = kXBytes + 2 * kWBytes + kScaleBox * 4;
inline constexpr int kStages = 4;
inline constexpr int kSmemBytes = kStages * (kXBytes + 2 * kWBytes + kScaleStride * 4) + 1024 + 128;

struct Smem {
  unsigned char* x;  // [stages][128][128 bytes], swizzled
  unsigned char* w;  // [stages][gate, up][128][128 bytes], swizzled
  float* scale;      // [stages][kScaleStride]
  Mbarrier *full, *empty;

  __device__ explicit Smem(unsigned char* raw) {
    x = raw + (1024 - smem_address(raw) % 1024) % 1024;
    w = x + kStages * kXBytes;
    scale = reinterpret_cast<float*>(w + kStages * 2 * kWBytes);
    full = reinterpret_cast<Mbarrier*>(scale + kStages * kScaleStride);
    empty = full + kStages;
  }
};

// The tiles of a pair, or of a CTA alone.
template <int kPair>
using Walk = TileWalk<kPair * kBm, kBn>;

// This CTA's part of a pair's tile; may be without rows.
__device__ __forceinline__ GemmTilePlace own_part(GemmTilePlace tile, int rank) {
  tile.row += rank * kBm;
  tile.rows -= rank * kBm;
  return tile;
}

template <int kPair>
__device__ __forceinline__ void feed(const CUtensorMap* map_x, const CUtensorMap* map_w,
                                     const CUtensorMap* map_scale, const GemmParams& p, const Smem& smem,
                                     int rank) {
  const bool leader = threadIdx.x % 32 == 0;
  Walk<kPair> walk(p);
  Ring<kStages> at;
  GemmTilePlace tile;
  while (walk.next(tile)) {
    for (int kb = 0; kb < p.k_blocks; ++kb, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (leader) {
        Mbarrier* full = &smem.full[at.stage];
        mbarrier_arrive_expect_tx(full, kCopiedBytes);
        unsigned char* w = smem.w + at.stage * 2 * kWBytes;
        const int row = own_part(tile, rank).row;
        tma_load_2d(smem.x + at.stage * kXBytes, map_x, full, kb * kStepK, row);
        if constexpr (kPair == 2) {
          tma_load_3d_multicast(w + rank * kWBytes, map_w, full, 3, kb * kStepK, tile.col,
                                2 * tile.expert + rank);
        } else {
          tma_load_3d(w, map_w, full, kb * kStepK, tile.col, 2 * tile.expert);
        }
        tma_load_2d(smem.scale + at.stage * kScaleStride, map_scale, full, row / 4 * 4, kb);
      }
      __syncwarp();
    }
  }
  // The other CTA's last words on these barriers must not reach a CTA that has gone.
  if constexpr (kPair == 2) {
    for (int i = 0; i < kStages; ++i, at.advance()) mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
  }
}

// A tile's steps: the tensor core's sums keep few bits, so each step of 128 is added in float32, scaled. What
// can goes in the shadow of a multiply, as in math_loop.cuh.
template <int kPair>
__device__ __forceinline__ void sum_steps(float (&gate)[64], float (&up)[64], const Smem& smem,
                                          Ring<kStages>& at, WeightScales& weights, int k_blocks, int wg_row,
                                          int scale_row) {
  const std::uint64_t x0 = wgmma_operand(smem_address(smem.x + wg_row * kStepK));
  const std::uint64_t w0 = wgmma_operand(smem_address(smem.w));
  // Of step kb, rows and weights multiplied: of gate for rows r and r + 8 of this thread, and of up.
  const auto scales = [&](int kb) {
    mbarrier_wait(&smem.full[at.stage], at.parity);
    weights.step(kb);
    const float gate_scale = weights.of(0, kb), up_scale = weights.of(1, kb);
    const float* rows = smem.scale + at.stage * kScaleStride + scale_row;
    const float r0 = rows[0], r1 = rows[8];
    return make_float4(r0 * gate_scale, r1 * gate_scale, r0 * up_scale, r1 * up_scale);
  };
  float4 now = scales(0), next = {};
  int kb = 0;
#pragma unroll 8
  do {
    const std::uint64_t x = x0 + static_cast<std::uint32_t>(at.stage * (kXBytes / 16));
    const std::uint64_t w = w0 + static_cast<std::uint32_t>(at.stage * (2 * kWBytes / 16));
    const std::uint32_t empty = release_address<kPair>(&smem.empty[at.stage]);
    at.advance();
    ++kb;
    float part[64];
    issue(part, x, w);
    wgmma_wait<0>();
    add(gate, part, now.x, now.y);
    issue(part, x, w + kWBytes / 16);
    if (kb < k_blocks) next = scales(kb);
    wgmma_wait<0>();
    release_at<kPair>(empty);
    add(up, part, now.z, now.w);
    now = next;
  } while (kb < k_blocks);
}

__device__ __forceinline__ void store_tile(const float (&gate)[64], const float (&up)[64],
                                           const SwigluParams& p, std::int64_t first_row, int col, int rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32, quad_lane = lane % 4;
  const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::uint32_t h[16];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const int at = 4 * j + 2 * half;
      h[j] = smxx::bf16_pair(silu_times(gate[at], up[at]), silu_times(gate[at + 1], up[at + 1]));
    }
    const bool exists = row + 8 * half < rows;
    const std::int64_t to = first_row + row + 8 * half;
    if (p.out != nullptr) store_values(h, p.out + to * p.out_stride + col, quad_lane, exists);
    if (p.codes == nullptr) continue;
    const float scale = block_scale(quad_amax(h));
    store_codes(h, scale, p.codes + to * p.gemm.n + col, quad_lane, exists);
    if (exists && quad_lane == 0) p.scale[col / 128 * p.scale_stride + to] = scale;
  }
}

template <int kPair>
__device__ __forceinline__ void multiply(const SwigluParams& p, const Smem& smem, int rank) {
  const int wg = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0);  // uniform, and known to be
  const int wg_row = wg * 64;
  const int row =
      wg_row + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  Walk<kPair> walk(p.gemm);
  Ring<kStages> at;
  WeightScales scales;
  GemmTilePlace next;
  bool more = walk.next(next);
  if (more) scales.begin(p.gemm, next);
  while (more) {
    const GemmTilePlace now = own_part(next, rank);
    const int rows = now.rows - wg_row;
    float gate[64] = {}, up[64] = {};
    if (rows > 0) {
      sum_steps<kPair>(gate, up, smem, at, scales, p.gemm.k_blocks, wg_row, row + now.row % 4);
    } else {
      for (int kb = 0; kb < p.gemm.k_blocks; ++kb, at.advance()) {
        mbarrier_wait(&smem.full[at.stage], at.parity);
        release_stage<kPair>(&smem.empty[at.stage]);
      }
    }
    more = walk.next(next);
    if (more) scales.begin(p.gemm, next);  // on their way while this is stored
    if (rows > 0) store_tile(gate, up, p, now.row + wg_row, now.col, rows);
  }
}

// gemm.split is kPair, so that the walk counts pairs.
template <int kPair>
__global__ void __launch_bounds__(kThreads, 1)
    swiglu_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                  const __grid_constant__ CUtensorMap map_scale, const __grid_constant__ SwigluParams p) {
  extern __shared__ unsigned char raw[];
  const Smem smem(raw);
  const int rank = kPair == 2 ? static_cast<int>(cluster_cta_rank()) : 0;
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&map_x);
    prefetch_tensor_map(&map_w);
    prefetch_tensor_map(&map_scale);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], 8 * kPair);  // every math warp
    }
    fence_mbarrier_init();
  }
  if constexpr (kPair == 2) {
    cluster_arrive_relaxed();
    cluster_wait();
  } else {
    __syncthreads();
  }
  grid_dependency_wait();
  grid_launch_dependents();
  if (threadIdx.x < 128) {
    register_limit_decrease<40>();
    if (threadIdx.x < 32) feed<kPair>(&map_x, &map_w, &map_scale, p.gemm, smem, rank);
  } else {
    register_limit_increase<232>();
    multiply<kPair>(p, smem, rank);
  }
  if constexpr (kPair == 2) {  // no CTA leaves while the other may still write to it
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
  }
}

}  // namespace trireme::cuda::fused
