// FP8 products of few tokens y = x W^T, at the speed of reading the weights: tokens on the narrow side of the
// multiply, K shared among CTAs where tiles are few. Launches are thread-safe, allocate nothing, read what
// varies from device memory (graphs may replay them) and may begin while the kernel before them on the stream
// drains: weights and their scales are read before that one has ended, everything else after.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/sm90/gemm/gemm.h"

namespace trireme::cuda {

// A tile is `tokens` by `weights` of the output.
struct ThinTile {
  int tokens, weights;
};
inline constexpr ThinTile kThinTiles[] = {{32, 64}, {32, 128}, {32, 256}, {64, 64}, {64, 128}, {64, 192}};
inline constexpr int kThinTileCount = sizeof(kThinTiles) / sizeof(kThinTiles[0]);

struct ThinGemmArgs {
  GemmFp8Args gemm;  // its variant is an index into kThinTiles; weights no kernel still running writes
  // Steps of 128 of K that a CTA takes at least, tiles being shared where that balances (which takes a
  // workspace); 0: no tile is shared, and a row's result does not depend on how many others there are.
  int least_steps = 4;
};

// What a launch of `variant` on at most `ctas` CTAs needs; none with least_steps 0.
std::int64_t thin_workspace_bytes(int variant, int ctas);

// cudaErrorInvalidValue for what the comments here and in gemm.h exclude. rows == 0 does nothing.
cudaError_t gemm_thin_fp8(const ThinGemmArgs&, cudaStream_t);

}  // namespace trireme::cuda
