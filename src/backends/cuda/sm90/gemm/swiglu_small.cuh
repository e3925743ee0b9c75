#pragma once
// The gate/up GEMM that ends in SwiGLU for few rows, where time is the reading of weights. One warpgroup
// multiplies gate, the other up, of 64 rows by 128 columns of the output. Where such tiles are fewer than the
// chip's multiprocessors, the CTAs of a cluster each take a slice of K; then each adds up all sums of its
// share of the rows, in the order of the ranks, and finishes these rows.

#include <cuda.h>

#include "backends/cuda/prim/cluster_memory.cuh"
#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/gemm/swiglu_step.cuh"

namespace trireme::cuda::fused::small {

inline constexpr int kBm = 64, kXBytes = kBm * kStepK;
inline constexpr int kScaleBox = kBm + 4;  // up to 3 more than a tile has, see scale_box in kernel.cuh
inline constexpr int kScaleStride = 96;
inline constexpr int kCopiedBytes = kXBytes + 2 * kWBytes + kScaleBox * 4;
inline constexpr int kStages = 4, kSums = 2 * kBm * kBn;
inline constexpr int kSmemBytes =
    kStages * (kXBytes + 2 * kWBytes + kScaleStride * 4) + kSums * 4 + 1024 + 128;
static_assert(kSmemBytes <= 227 * 1024);

struct Smem {
  unsigned char* x;  // [stages][64][128 bytes], swizzled
  unsigned char* w;  // [stages][gate, up][128][128 bytes], swizzled
  float* scale;      // [stages][kScaleStride]
  float* sums;       // [gate, up][64][128], see sum_column
  Mbarrier *full, *empty;
  Mbarrier* ready;  // all CTAs' sums of a tile are there
  Mbarrier* free;   // this CTA's have been read

  __device__ explicit Smem(unsigned char* raw) {
    x = raw + (1024 - smem_address(raw) % 1024) % 1024;
    w = x + kStages * kXBytes;
    scale = reinterpret_cast<float*>(w + kStages * 2 * kWBytes);
    sums = scale + kStages * kScaleStride;
    full = reinterpret_cast<Mbarrier*>(sums + kSums);
    empty = full + kStages;
    ready = empty + kStages;
    free = ready + 1;
  }
};

// The steps of K of one CTA of the cluster.
struct Slice {
  int first, count;
};
__device__ __forceinline__ Slice slice(int k_blocks, int split, int rank) {
  const int first = k_blocks * rank / split;
  return {first, k_blocks * (rank + 1) / split - first};
}

__device__ __forceinline__ void feed(const CUtensorMap* map_x, const CUtensorMap* map_w,
                                     const CUtensorMap* map_scale, const GemmParams& p, const Smem& smem,
                                     const Slice& k) {
  const bool leader = threadIdx.x % 32 == 0;
  TileWalk<kBm, kBn> walk(p);
  Ring<kStages> at;
  GemmTilePlace tile;
  while (walk.next(tile)) {
    for (int kb = k.first; kb < k.first + k.count; ++kb, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      if (leader) {
        Mbarrier* full = &smem.full[at.stage];
        mbarrier_arrive_expect_tx(full, kCopiedBytes);
        tma_load_3d(smem.w + at.stage * 2 * kWBytes, map_w, full, kb * kStepK, tile.col, 2 * tile.expert);
        tma_load_2d(smem.x + at.stage * kXBytes, map_x, full, kb * kStepK, tile.row);
        tma_load_2d(smem.scale + at.stage * kScaleStride, map_scale, full, tile.row / 4 * 4, kb);
      }
      __syncwarp();
    }
  }
}

// Where a row of sums has its column: so turned that a warp's stores, of 8 rows, meet all banks.
__device__ __forceinline__ int sum_column(int row, int column) { return column ^ (row % 4 * 8); }

// The cluster's exchange of sums: each CTA leaves its own in its shared memory, and reads those of its share
// of the tile's 64 rows from all.
class Exchange {
 public:
  __device__ Exchange(const Smem& smem, int split, int rank)
      : smem_(smem), split_(split), rank_(rank), rows_each_(kBm / split) {}

  // How many of a tile's rows are this CTA's, and the first.
  __device__ int mine(int rows) const { return max(0, min(rows - first(), rows_each_)); }
  __device__ int first() const { return rank_ * rows_each_; }

  // Every math thread: leaves its sums of plane `plane` (0: gate, 1: up), and waits for those of all CTAs.
  __device__ void run(const float (&sum)[64], int plane, int rows) {
    if (split_ > 1) mbarrier_wait(smem_.free, parity_ ^ 1);
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4 + 8 * half;
      if (row >= rows) continue;
      float* const line = row_of(plane, row);
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        *reinterpret_cast<float2*>(line + sum_column(row, 8 * j + 2 * (lane % 4))) =
            make_float2(sum[4 * j + 2 * half], sum[4 * j + 2 * half + 1]);
      }
    }
    named_barrier_sync(1, 256);
    if (split_ == 1) return;
    const int thread = static_cast<int>(threadIdx.x) - 128;
    if (thread < split_) mbarrier_arrive_cluster(smem_.ready, static_cast<std::uint32_t>(thread));
    mbarrier_wait_cluster(smem_.ready, parity_);
    parity_ ^= 1;
  }

  // 8 sums of gate and of up from column 8 * part on, of one of this CTA's rows.
  __device__ void take(float (&gate)[8], float (&up)[8], int row, int part) const {
    const int of_tile = first() + row;
    const float* const at = row_of(0, of_tile) + sum_column(of_tile, 8 * part);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] = up[i] = 0;
#pragma unroll 2
    for (int from = 0; from < split_; ++from) {
      const std::uint32_t there = cluster_address(at, static_cast<std::uint32_t>(from));
      constexpr std::uint32_t kPlane = kBm * kBn * 4;
      const float4 g0 = load_cluster(there), g1 = load_cluster(there + 16);
      const float4 u0 = load_cluster(there + kPlane), u1 = load_cluster(there + kPlane + 16);
      gate[0] += g0.x, gate[1] += g0.y, gate[2] += g0.z, gate[3] += g0.w;
      gate[4] += g1.x, gate[5] += g1.y, gate[6] += g1.z, gate[7] += g1.w;
      up[0] += u0.x, up[1] += u0.y, up[2] += u0.z, up[3] += u0.w;
      up[4] += u1.x, up[5] += u1.y, up[6] += u1.z, up[7] += u1.w;
    }
  }

  // Every math thread, after the last take: all may leave their next sums.
  // Before this CTA ends: the others' last words have come.
  __device__ void drain() const {
    if (split_ > 1) mbarrier_wait(smem_.free, parity_ ^ 1);
  }
  __device__ void done() const {
    named_barrier_sync(1, 256);
    const int thread = static_cast<int>(threadIdx.x) - 128;
    if (split_ > 1 && thread < split_)
      mbarrier_arrive_at_relaxed(cluster_address(smem_.free, static_cast<std::uint32_t>(thread)));
  }

 private:
  __device__ float* row_of(int plane, int row) const { return smem_.sums + (plane * kBm + row) * kBn; }
  const Smem& smem_;
  const int split_, rank_, rows_each_;
  std::uint32_t parity_ = 0;
};

// A row in 16 lanes, 8 columns each, as smxx::swiglu has them.
__device__ __forceinline__ void finish(const SwigluParams& p, const Exchange& sums,
                                       const GemmTilePlace& tile) {
  const int thread = static_cast<int>(threadIdx.x) - 128, part = thread % 16;
  const int mine = sums.mine(tile.rows);
  for (int base = thread / 32 * 2; base < mine; base += 16) {
    const int row = base + thread % 32 / 16;
    float gate[8], up[8];
    sums.take(gate, up, row, part);
#pragma unroll
    for (int i = 0; i < 8; ++i) up[i] = silu_times(gate[i], up[i]);
    const uint4 h = smxx::pack8(up);
    const std::int64_t to = tile.row + sums.first() + row;
    if (p.out != nullptr && row < mine)
      *reinterpret_cast<uint4*>(p.out + to * p.out_stride + tile.col + 8 * part) = h;
    if (p.codes == nullptr) continue;
    float scale;
    const uint2 codes = smxx::quantise_block(h, scale);
    if (row >= mine) continue;
    *reinterpret_cast<uint2*>(p.codes + to * p.gemm.n + tile.col + 8 * part) = codes;
    if (part == 0) p.scale[tile.col / 128 * p.scale_stride + to] = scale;
  }
}

__device__ __forceinline__ void multiply(const SwigluParams& p, const Smem& smem, int rank, const Slice& k) {
  const int plane = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0);
  const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
  TileWalk<kBm, kBn> walk(p.gemm);
  Ring<kStages> at;
  Exchange exchange(smem, p.gemm.split, rank);
  WeightScales<1> scales;
  GemmTilePlace tile;
  bool more = walk.next(tile);
  if (more) scales.begin(p.gemm, tile, plane, k.first, k.count);
  while (more) {
    const GemmTilePlace now = tile;
    float sum[64] = {};
    for (int kb = 0; kb < k.count; ++kb, at.advance()) {
      scales.step(kb);
      const float sw = scales.of(0, kb);
      mbarrier_wait(&smem.full[at.stage], at.parity);
      const float* sx = smem.scale + at.stage * kScaleStride + row + now.row % 4;
      const float s0 = sx[0] * sw, s1 = sx[8] * sw;
      float part[64];
      issue(part, wgmma_operand(smem_address(smem.x + at.stage * kXBytes)),
            wgmma_operand(smem_address(smem.w + (at.stage * 2 + plane) * kWBytes)));
      wgmma_wait<0>();
      release_stage<1>(&smem.empty[at.stage]);
      add(sum, part, s0, s1);
    }
    more = walk.next(tile);
    if (more) scales.begin(p.gemm, tile, plane, k.first, k.count);
    exchange.run(sum, plane, now.rows);
    finish(p, exchange, now);
    exchange.done();
  }
  exchange.drain();
}

__global__ void __launch_bounds__(kThreads, 1)
    swiglu_small_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                        const __grid_constant__ CUtensorMap map_scale,
                        const __grid_constant__ SwigluParams p) {
  extern __shared__ unsigned char raw[];
  const Smem smem(raw);
  const int split = p.gemm.split, rank = split > 1 ? static_cast<int>(cluster_cta_rank()) : 0;
  const Slice k = slice(p.gemm.k_blocks, split, rank);
  if (threadIdx.x == 0) {
    prefetch_tensor_map(&map_x);
    prefetch_tensor_map(&map_w);
    prefetch_tensor_map(&map_scale);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], 8);  // every math warp
    }
    mbarrier_init(smem.ready, static_cast<std::uint32_t>(split));
    mbarrier_init(smem.free, static_cast<std::uint32_t>(split));
    fence_mbarrier_init();
  }
  cluster_arrive_relaxed();
  cluster_wait();
  __syncthreads();
  grid_dependency_wait();
  grid_launch_dependents();
  if (threadIdx.x < 128) {
    if (threadIdx.x < 32) feed(&map_x, &map_w, &map_scale, p.gemm, smem, k);
  } else {
    multiply(p, smem, rank, k);
  }
  // No CTA leaves while another may still send to it.
  __syncwarp();
  cluster_arrive_relaxed();
  cluster_wait();
}

}  // namespace trireme::cuda::fused::small
