#pragma once
// The gate/up GEMM that ends in SwiGLU. As gemm_kernel it is persistent, one warp feeds a ring of stages and
// two warpgroups multiply; a tile is 128 rows by 128 columns of the output, for which a warpgroup keeps 64
// rows of gate and of up. Both sums leave registers for one multiply at a time, so what hides a warpgroup's
// additions is the other's multiplies.

#include <cuda.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/gemm/swiglu_epilogue.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda::fused {

struct SwigluParams {
  GemmParams gemm;      // n: of the output; w_scale: [experts][2 n / 128][w_scale_stride]
  std::uint8_t* codes;  // [rows, n], or null
  float* scale;         // [n / 128][scale_stride]
  std::int64_t scale_stride;
  __nv_bfloat16* out;  // [rows, n], or null
  std::int64_t out_stride;
};

inline constexpr int kBm = 128, kBn = 128, kStepK = 128;
inline constexpr int kXBytes = kBm * kStepK, kWBytes = kBn * kStepK;  // kWBytes: of gate, and again of up
inline constexpr int kScaleBox = kBm + 4;                             // see scale_box in kernel.cuh
inline constexpr int kScaleStride = 160;
inline constexpr int kCopiedBytes = kXBytes + 2 * kWBytes + kScaleBox * 4;
inline constexpr int kStages = 4, kThreads = 384;
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

struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ __forceinline__ void feed(const CUtensorMap* map_x, const CUtensorMap* map_w,
                                     const CUtensorMap* map_scale, const GemmParams& p, const Smem& smem) {
  const bool leader = threadIdx.x % 32 == 0;
  TileWalk<kBm, kBn> walk(p);
  Ring at;
  GemmTilePlace tile;
  while (walk.next(tile)) {
    for (int kb = 0; kb < p.k_blocks; ++kb, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (leader) {
        Mbarrier* full = &smem.full[at.stage];
        mbarrier_arrive_expect_tx(full, kCopiedBytes);
        tma_load_2d(smem.x + at.stage * kXBytes, map_x, full, kb * kStepK, tile.row);
        tma_load_3d(smem.w + at.stage * 2 * kWBytes, map_w, full, kb * kStepK, tile.col, 2 * tile.expert);
        tma_load_2d(smem.scale + at.stage * kScaleStride, map_scale, full, tile.row / 4 * 4, kb);
      }
      __syncwarp();
    }
  }
}

// The scales of a tile's gate and up rows, 32 blocks of K at a time: lane l holds block l.
struct WeightScales {
  const float *gate, *up;
  int k_blocks;
  float now[2], next[2];

  __device__ void begin(const GemmParams& p, const GemmTilePlace& tile) {
    const int blocks = p.n / 128;
    gate =
        p.w_scale + (static_cast<std::int64_t>(tile.expert) * 2 * blocks + tile.col / 128) * p.w_scale_stride;
    up = gate + static_cast<std::int64_t>(blocks) * p.w_scale_stride;
    k_blocks = p.k_blocks;
    load(0);
  }
  __device__ void load(int from) {
    const int kb = min(from + static_cast<int>(threadIdx.x) % 32, k_blocks - 1);
    next[0] = __ldg(gate + kb);
    next[1] = __ldg(up + kb);
  }
  // Before block kb, in order: keeps the following 32 on their way.
  __device__ void step(int kb) {
    if (kb % 32 != 0) return;
    now[0] = next[0];
    now[1] = next[1];
    if (kb + 32 < k_blocks) load(kb + 32);
  }
};

__device__ __forceinline__ void issue(float (&part)[64], std::uint32_t x, std::uint32_t w) {
  const std::uint64_t a = wgmma_operand(x), b = wgmma_operand(w);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_ss_e4m3<128>(part, a + 2 * i, b + 2 * i, i > 0);
  wgmma_commit();
}

__device__ __forceinline__ void add(float (&sum)[64], float (&part)[64], float s0, float s1) {
  wgmma_hold(part);
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    sum[4 * j] += s0 * part[4 * j];
    sum[4 * j + 1] += s0 * part[4 * j + 1];
    sum[4 * j + 2] += s1 * part[4 * j + 2];
    sum[4 * j + 3] += s1 * part[4 * j + 3];
  }
}

__device__ __forceinline__ void release(Mbarrier* empty) {
  if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

// A tile's steps: the tensor core's sums keep few bits, so each step of 128 is added in float32, scaled.
__device__ __forceinline__ void sum_steps(float (&gate)[64], float (&up)[64], const Smem& smem, Ring& at,
                                          WeightScales& scales, int k_blocks, int wg_row, int scale_row) {
  for (int kb = 0; kb < k_blocks; ++kb, at.advance()) {
    scales.step(kb);
    const float sg = __shfl_sync(~0u, scales.now[0], kb % 32), su = __shfl_sync(~0u, scales.now[1], kb % 32);
    mbarrier_wait(&smem.full[at.stage], at.parity);
    const float* sx = smem.scale + at.stage * kScaleStride + scale_row;
    const float sx0 = sx[0], sx1 = sx[8];
    const std::uint32_t x = smem_address(smem.x + at.stage * kXBytes + wg_row * kStepK);
    const std::uint32_t w = smem_address(smem.w + at.stage * 2 * kWBytes);
    float part[64];
    issue(part, x, w);
    wgmma_wait<0>();
    add(gate, part, sx0 * sg, sx1 * sg);
    issue(part, x, w + kWBytes);
    wgmma_wait<0>();
    release(&smem.empty[at.stage]);
    add(up, part, sx0 * su, sx1 * su);
  }
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

__device__ __forceinline__ void multiply(const SwigluParams& p, const Smem& smem) {
  const int wg = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0);  // uniform, and known to be
  const int wg_row = wg * 64;
  const int row =
      wg_row + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  TileWalk<kBm, kBn> walk(p.gemm);
  Ring at;
  WeightScales scales;
  GemmTilePlace tile;
  bool more = walk.next(tile);
  if (more) scales.begin(p.gemm, tile);
  while (more) {
    const GemmTilePlace now = tile;
    const int rows = now.rows - wg_row;
    if (rows <= 0) {
      for (int kb = 0; kb < p.gemm.k_blocks; ++kb, at.advance()) {
        mbarrier_wait(&smem.full[at.stage], at.parity);
        release(&smem.empty[at.stage]);
      }
      more = walk.next(tile);
      if (more) scales.begin(p.gemm, tile);
      continue;
    }
    float gate[64] = {}, up[64] = {};
    sum_steps(gate, up, smem, at, scales, p.gemm.k_blocks, wg_row, row + now.row % 4);
    more = walk.next(tile);
    if (more) scales.begin(p.gemm, tile);  // on their way while this tile is stored
    store_tile(gate, up, p, now.row + wg_row, now.col, rows);
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    swiglu_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                  const __grid_constant__ CUtensorMap map_scale, const __grid_constant__ SwigluParams p) {
  extern __shared__ unsigned char raw[];
  const Smem smem(raw);
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&map_x);
    prefetch_tensor_map(&map_w);
    prefetch_tensor_map(&map_scale);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], 8);  // every math warp
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  grid_dependency_wait();
  grid_launch_dependents();
  if (threadIdx.x < 128) {
    register_limit_decrease<40>();
    if (threadIdx.x < 32) feed(&map_x, &map_w, &map_scale, p.gemm, smem);
  } else {
    register_limit_increase<232>();
    multiply(p, smem);
  }
}

}  // namespace trireme::cuda::fused
