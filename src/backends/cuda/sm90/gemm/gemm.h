// Hopper matrix products y = x W^T on wgmma, dense or grouped by expert, from FP8 with block scales or from
// BF16. Launches are thread-safe, allocate nothing, read what varies from device memory (graphs may replay
// them) and may begin while the kernel before them on the stream drains (programmatic dependent launch).
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

enum class RowLayout : std::uint8_t {
  dense,   // one group: rows [0, rows), or [0, min(rows, counts[0])) where counts is given
  packed,  // rows of expert e are [counts[e-1], counts[e]) (from 0 for e = 0): counts holds ends
  masked,  // rows of expert e are e * max_m + [0, min(counts[e], max_m))
};

// Which rows of x (and of the output) belong to which expert. Rows of nobody are not written.
struct GemmRows {
  RowLayout layout = RowLayout::dense;
  int experts = 1;
  const std::int32_t* counts = nullptr;  // device, [experts]; dense: null or [1]
  std::int64_t rows =
      0;          // rows of the matrices x and out: a bound on what counts say; masked: experts * max_m
  int max_m = 0;  // masked only
  // Rows of each expert, for the choice of a tile. 0: about rows / experts, and CTAs take tiles as they come
  // free where there is a workspace to count in.
  std::int64_t rows_hint = 0;
};

// What a product is finished with, in float32 before it is rounded; each or none.
struct GemmFinish {
  const float* row_weight = nullptr;  // [rows]: what a row is multiplied with, first
  const float* bias = nullptr;        // [n]
  const void* residual = nullptr;     // [rows, n] of out's type; may be out itself; 16-byte aligned
  std::int64_t residual_stride = 0;   // elements from row to row, a multiple of 8
};

// Where CTAs that share a tile's K meet; launches that may overlap have one each. 16-byte aligned, and its
// first kSplitSumCounterBytes (split_sum.cuh) zero before the first launch; a launch leaves those zero.
struct GemmWorkspace {
  void* data = nullptr;  // null: no tile is shared
  std::int64_t bytes = 0;
};

struct GemmFp8Args {
  const void* x = nullptr;          // [rows, k] e4m3; 16-byte aligned
  std::int64_t x_stride = 0;        // bytes from row to row, a multiple of 16
  const float* x_scale = nullptr;   // [ceil(k/128)][x_scale_stride]: of row r and block b at b *
                                    // x_scale_stride + r; 16-byte aligned
  std::int64_t x_scale_stride = 0;  // >= rows, a multiple of 4
  const void* w = nullptr;          // [experts * n, k] e4m3, contiguous; 16-byte aligned
  const float* w_scale = nullptr;   // [experts][ceil(n/128)][w_scale_stride]
  int w_scale_stride = 0;           // >= ceil(k/128)
  void* out = nullptr;              // [rows, n] BF16 or float32; 16-byte aligned
  std::int64_t out_stride = 0;      // elements from row to row, a multiple of 8
  bool out_f32 = false;
  int n = 0, k = 0;  // n % 8 == 0, k % 16 == 0
  GemmRows rows;
  GemmFinish finish;
  GemmWorkspace workspace;
  int variant = -1;  // an index into kFp8Tiles; negative: choose_gemm_tile
  int sms = 0;       // CTAs at most, so that others may have the rest of the chip; 0: all
};

struct GemmBf16Args {
  const void* x = nullptr;      // [rows, k] BF16; 16-byte aligned
  std::int64_t x_stride = 0;    // elements from row to row, a multiple of 8
  const void* w = nullptr;      // [experts * n, k] BF16, contiguous; 16-byte aligned
  void* out = nullptr;          // [rows, n] BF16 or float32; 16-byte aligned
  std::int64_t out_stride = 0;  // elements from row to row, a multiple of 8
  bool out_f32 = false;
  int n = 0, k = 0;  // multiples of 8
  GemmRows rows;
  GemmFinish finish;
  GemmWorkspace workspace;
  int variant = -1;  // an index into kBf16Tiles; negative: choose_gemm_tile
  int sms = 0;       // as above
};

// What a workspace holds that serves every product on `sms` multiprocessors.
std::int64_t gemm_workspace_bytes(int sms);

// cudaErrorInvalidValue for what the comments above exclude. rows == 0 does nothing.
cudaError_t gemm_fp8(const GemmFp8Args&, cudaStream_t);
cudaError_t gemm_bf16(const GemmBf16Args&, cudaStream_t);

}  // namespace trireme::cuda
