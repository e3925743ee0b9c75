// A CTA keeps its head's matrix in shared memory, brought there before the kernel ahead has ended, and takes
// the tokens tile by tile: one warp feeds a ring of activations through the copy engine, two warpgroups
// multiply. grid: [parts of n, chunks of tokens, heads].
#pragma once
#include <cuda.h>

#include "backends/cuda/prim/launch.h"
#include "backends/cuda/sm90/head_gemm/head_gemm.h"
#include "backends/cuda/sm90/head_gemm/math.cuh"

namespace trireme::cuda::head {

template <class C>
__device__ __forceinline__ void load_weights(const CUtensorMap* map, const Params& p, const Smem<C>& smem) {
  const int head = static_cast<int>(blockIdx.z), first = static_cast<int>(blockIdx.x) * p.columns;
  if constexpr (C::kUp) {
    for (int piece = 0; piece < p.columns / C::kPieceN; ++piece) {
      Mbarrier* full = &smem.w_full[piece];
      unsigned char* to = smem.w + piece * C::kPieceN * C::kWColumnBytes;
      const int col = first + piece * C::kPieceN;
      mbarrier_arrive_expect_tx(full, C::kPieceN * C::kWColumnBytes);
      if constexpr (C::kFp8) {
        tma_load_2d(to, map, full, 0, head * p.n + col);
      } else {
        for (int i = 0; i < C::kPieceN / 64; ++i)
          tma_load_2d(to + i * 16384, map, full, col + 64 * i, head * C::kK);
      }
    }
  } else {
    for (int step = 0; step < C::kWSteps; ++step) {
      Mbarrier* full = &smem.w_full[step];
      mbarrier_arrive_expect_tx(full, static_cast<std::uint32_t>(p.columns * 128));
      tma_load_2d(smem.w + step * p.columns * 128, map, full, step * (C::kK / C::kWSteps),
                  head * p.n + first);
    }
  }
}

template <class C>
__device__ __forceinline__ void load_tokens(const CUtensorMap* map, const Params& p, const Smem<C>& smem) {
  const int tiles = (p.tokens + C::kRows - 1) / C::kRows;
  Ring<C::kStages> at;
  for (int tile = static_cast<int>(blockIdx.y); tile < tiles; tile += static_cast<int>(gridDim.y)) {
    for (int step = 0; step < C::kXSteps; ++step, at.advance()) {
      mbarrier_wait(&smem.empty[at.stage], at.parity ^ 1);
      mbarrier_arrive_expect_tx(&smem.full[at.stage], C::kXBytes);
      tma_load_3d(smem.x + at.stage * C::kXBytes, map, &smem.full[at.stage], 64 * step,
                  static_cast<int>(blockIdx.z), tile * C::kRows);
    }
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    head_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w,
                const __grid_constant__ CUtensorMap map_out, const __grid_constant__ Params p) {
  extern __shared__ unsigned char raw[];
  const Smem<C> smem(raw);
  const bool feeder = threadIdx.x == 32 * C::kMathWarps;
  if (feeder) {
    for (int i = 0; i < C::kWBarriers; ++i) mbarrier_init(&smem.w_full[i], 1);
    for (int s = 0; s < C::kStages; ++s) {
      mbarrier_init(&smem.full[s], 1);
      mbarrier_init(&smem.empty[s], C::kMathWarps);
    }
    fence_mbarrier_init();
    load_weights<C>(&map_w, p, smem);
  } else if (threadIdx.x == 0) {
    prefetch_tensor_map(&map_x);
    prefetch_tensor_map(&map_out);
  }
  __syncthreads();
  grid_launch_dependents();
  if (feeder) {
    grid_dependency_wait();
    load_tokens<C>(&map_x, p, smem);
  } else if (threadIdx.x < 32 * C::kMathWarps) {
    // What it stores depends on tokens that the feeder waited for.
    Math<C>(&map_out, p, smem).run();
  }
}

struct Launch {
  CUtensorMap x, w, out;
  Params params;
  dim3 grid;
  cudaStream_t stream;
};

template <class C>
cudaError_t start(const Launch& l) {
  const cudaError_t e =
      cudaFuncSetAttribute(head_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSmemBytes);
  if (e != cudaSuccess) return e;
  return launch(head_kernel<C>, l.grid, dim3(C::kThreads), C::kSmemBytes, l.stream, l.x, l.w, l.out,
                l.params);
}

cudaError_t start_bf16(const Launch&, bool up, int rows);
cudaError_t start_codes(const Launch&, int rows);
cudaError_t start_fp8(const Launch&, bool up, int rows);

}  // namespace trireme::cuda::head
