// A cluster of kRouterSlices CTAs has a tile of 64 rows; each CTA multiplies one slice of k, which the copy
// engine brings all at once where it fits, sends 8 rows of its sums to each CTA, and adds up the 8 rows it
// was sent. grid: [slices * tiles of columns, tiles of rows].
#pragma once
#include <cuda.h>

#include "backends/cuda/heuristics/router_tile.h"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/sm90/router_gemm/instructions.cuh"

namespace trireme::cuda::router {

constexpr int kRows = 64, kMathThreads = 128, kThreads = kMathThreads + 32;
constexpr int kStepK = 64;  // 128 bytes

struct Params {
  int rows, n, k_steps;
  float* out;
  std::int64_t out_stride;
};

template <int kColumns>
struct Sizes {
  static constexpr int kXBytes = kRows * 128, kStageBytes = kXBytes + kColumns * 128;
  static constexpr int kReceivedBytes = kRows * kColumns * 4;  // [slices][8][columns]
  static constexpr int kRoom = 226 * 1024 - 1024 - kReceivedBytes;
  static constexpr int kStages = kRoom / kStageBytes < 16 ? kRoom / kStageBytes : 16;
  static constexpr int kSmemBytes = 1024 + kStages * kStageBytes + kReceivedBytes + (2 * kStages + 1) * 8;
};

template <int kColumns>
struct Smem {
  using S = Sizes<kColumns>;
  unsigned char* stages;  // [stages]: x [64][128 bytes], w [columns][128 bytes], both swizzled
  float* received;        // [slices][8][columns]
  Mbarrier *full, *empty, *arrived;

  __device__ explicit Smem(unsigned char* raw) {
    stages = raw + (1024 - smem_address(raw) % 1024) % 1024;
    received = reinterpret_cast<float*>(stages + S::kStages * S::kStageBytes);
    full = reinterpret_cast<Mbarrier*>(reinterpret_cast<unsigned char*>(received) + S::kReceivedBytes);
    empty = full + S::kStages;
    arrived = empty + S::kStages;
  }
};

struct Slice {
  int first, count;
};
__device__ __forceinline__ Slice slice_of(int steps, int rank) {
  const int first = steps * rank / kRouterSlices;
  return {first, steps * (rank + 1) / kRouterSlices - first};
}

// The matrix's part of the stages that are free at the start goes out before the kernel ahead has ended.
template <int kColumns>
__device__ __forceinline__ void feed(const CUtensorMap* map_x, const CUtensorMap* map_w,
                                     const Smem<kColumns>& smem, const Slice& k, int row, int col) {
  using S = Sizes<kColumns>;
  const auto load_w = [&](int i) {
    const int stage = i % S::kStages;
    mbarrier_arrive_expect_tx(&smem.full[stage], S::kStageBytes);
    tma_load_2d(smem.stages + stage * S::kStageBytes + S::kXBytes, map_w, &smem.full[stage],
                (k.first + i) * kStepK, col);
  };
  const int early = k.count < S::kStages ? k.count : S::kStages;
  for (int i = 0; i < early; ++i) load_w(i);
  grid_dependency_wait();
  for (int i = 0; i < k.count; ++i) {
    const int stage = i % S::kStages;
    if (i >= S::kStages) {
      mbarrier_wait(&smem.empty[stage], static_cast<std::uint32_t>(i / S::kStages - 1) & 1);
      load_w(i);
    }
    tma_load_2d(smem.stages + stage * S::kStageBytes, map_x, &smem.full[stage], (k.first + i) * kStepK, row);
  }
}

template <int kColumns>
__device__ __forceinline__ void multiply_slice(float (&acc)[kColumns / 2], const Smem<kColumns>& smem,
                                               const Slice& k) {
  using S = Sizes<kColumns>;
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) acc[i] = 0;
  int stage = 0;
  std::uint32_t parity = 0;
  for (int i = 0; i < k.count; ++i) {
    mbarrier_wait(&smem.full[stage], parity);
    const std::uint32_t at = smem_address(smem.stages) + static_cast<std::uint32_t>(stage * S::kStageBytes);
    const std::uint64_t a = wgmma_operand(at), b = wgmma_operand(at + S::kXBytes);
    wgmma_hold(acc);
    wgmma_fence();
#pragma unroll
    for (unsigned j = 0; j < 4; ++j) multiply(acc, a + 2 * j, b + 2 * j, true);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(acc);
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&smem.empty[stage]);
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// CTA r adds up rows 8 r to 8 r + 7 of the tile: those of lanes' upper and lower halves of warp r / 2.
template <int kColumns>
__device__ __forceinline__ void send(const float (&acc)[kColumns / 2], const Smem<kColumns>& smem, int rank,
                                     int rows) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int owner = 2 * warp + half;
    if (8 * owner >= rows) break;
    const float* mine = smem.received + (rank * 8 + lane / 4) * kColumns + 2 * (lane % 4);
    const std::uint32_t to = address_in(smem_address(mine), static_cast<std::uint32_t>(owner));
    const std::uint32_t barrier = address_in(smem_address(smem.arrived), static_cast<std::uint32_t>(owner));
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j)
      store_async2(to + static_cast<std::uint32_t>(32 * j), acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1],
                   barrier);
  }
}

template <int kColumns>
__device__ __forceinline__ void add_up(const Smem<kColumns>& smem, const Params& p, int row, int col) {
  mbarrier_wait_cluster(smem.arrived, 0);
  for (int i = static_cast<int>(threadIdx.x); i < 8 * kColumns; i += kMathThreads) {
    float sum = 0;
#pragma unroll
    for (int s = 0; s < kRouterSlices; ++s) sum += smem.received[s * 8 * kColumns + i];
    const int r = row + i / kColumns, c = col + i % kColumns;
    if (r < p.rows && c < p.n) p.out[r * p.out_stride + c] = sum;
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreads, 1)
    router_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                  const __grid_constant__ Params p) {
  using S = Sizes<kColumns>;
  extern __shared__ unsigned char raw[];
  const Smem<kColumns> smem(raw);
  const int rank = static_cast<int>(cluster_cta_rank());
  const int row = static_cast<int>(blockIdx.y) * kRows;
  const int col = static_cast<int>(blockIdx.x) / kRouterSlices * kColumns;
  const int rows = min(p.rows - row, kRows);
  const bool owns = 8 * rank < rows;
  const bool feeder = threadIdx.x == kMathThreads;
  if (feeder) {
    for (int s = 0; s < S::kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], kMathThreads / 32);
    }
    mbarrier_init(smem.arrived, 1);
    fence_mbarrier_init();
    if (owns) mbarrier_arrive_expect_tx(smem.arrived, S::kReceivedBytes);
  }
  __syncthreads();
  cluster_arrive_relaxed();
  grid_launch_dependents();
  const Slice k = slice_of(p.k_steps, rank);
  if (feeder) feed<kColumns>(&map_x, &map_w, smem, k, row, col);
  __syncwarp();
  float acc[kColumns / 2];
  if (threadIdx.x < kMathThreads) multiply_slice<kColumns>(acc, smem, k);
  // Every CTA's barrier stands before anything is sent to it.
  __syncwarp();
  cluster_wait();
  if (threadIdx.x >= kMathThreads) return;
  send<kColumns>(acc, smem, rank, rows);
  if (owns) add_up<kColumns>(smem, p, row + 8 * rank, col);
}

}  // namespace trireme::cuda::router
