// One matrix a head, on Hopper's wgmma: out[t, h, :] = x[t, h, :] W[h]^T, MLA's absorbed W_UK and W_UV, from
// BF16 or from FP8 weights with block scales. Launches are thread-safe, allocate nothing and may begin while
// the kernel before them on the stream drains (programmatic dependent launch); weights are read before that
// one has ended, so nothing on the stream may write them.
//
// A row of the output is one chain of sums over k, the same for any number of tokens and any tile.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backends/cuda/heuristics/head_tile.h"

namespace trireme::cuda {

// Into the latent, from BF16 weights, instead of `out`: rows of q as MLA decode takes them over an FP8 cache
// (mla_decode.h). A row is n e4m3 codes, then 64 BF16 rope values over the row's scale and over the cache's.
struct HeadCodes {
  void* rows = nullptr;          // [tokens, heads], row_bytes apart; 16-byte aligned; null: BF16 in `out`
  std::int64_t row_bytes = 0;    // a multiple of 16
  float* scale = nullptr;        // [tokens, heads]
  const float* bound = nullptr;  // [heads]: no column of the head's matrix is longer (head_bounds)
  const void* rope = nullptr;    // [tokens, heads, 64] BF16, strides as x; 16-byte aligned
  float latent_scale = 1;        // of the cache
};

struct HeadGemmArgs {
  const void* x = nullptr;         // [tokens, heads, k] BF16; 16-byte aligned
  std::int64_t x_head_stride = 0;  // elements from head to head; multiples of 8, as all strides
  std::int64_t x_token_stride = 0;
  // BF16: [heads][k][n] where k is 128, [heads][n][k] where it is 512. FP8: [heads][n][k] e4m3, both.
  const void* w = nullptr;  // 16-byte aligned
  // FP8 weights multiply e4m3 activations, which the kernel makes of x: a scale for each token, head and 128
  // values, max |x| / 448.
  const float* w_scale = nullptr;  // FP8: [heads][n / 128][w_scale_stride], of blocks of 128 x 128
  int w_scale_stride = 0;          // FP8: >= k / 128
  void* out = nullptr;             // [tokens, heads, n] BF16; 16-byte aligned
  std::int64_t out_head_stride = 0;
  std::int64_t out_token_stride = 0;
  HeadCodes codes;
  HeadProblem shape;
  HeadTile tile;  // rows 0: choose_head_tile
};

// cudaErrorInvalidValue for what the comments above exclude. tokens == 0 does nothing.
cudaError_t head_gemm(const HeadGemmArgs&, cudaStream_t);

// For BF16 matrices [heads][k][n]: the length of each head's longest column, rounded up a little.
cudaError_t head_bounds(const void* w, int heads, int k, int n, float* bound, cudaStream_t);

}  // namespace trireme::cuda
