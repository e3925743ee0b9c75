#include "backends/cuda/sm90/head_gemm/turn_codes.h"

#include "backends/cuda/prim/launch.h"

namespace trireme::cuda {
namespace {

constexpr int kTile = 32, kLines = 8;

// One tile of 32 x 32 codes a block of 32 x 8 threads; the first of each block of scales brings its scale.
__global__ void turn_kernel(TurnCodesArgs a) {
  __shared__ std::uint8_t tile[kTile][kTile + 4];
  pdl_wait();
  pdl_launch();
  const auto x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int row = static_cast<int>(blockIdx.y) * kTile, col = static_cast<int>(blockIdx.x) * kTile;
  const std::int64_t matrix = static_cast<std::int64_t>(blockIdx.z) * a.rows * a.cols;
  const auto* from = static_cast<const std::uint8_t*>(a.codes) + matrix;
  auto* to = static_cast<std::uint8_t*>(a.out) + matrix;
  for (int i = y; i < kTile; i += kLines)
    tile[i][x] = from[static_cast<std::int64_t>(row + i) * a.cols + col + x];
  __syncthreads();
  for (int i = y; i < kTile; i += kLines)
    to[static_cast<std::int64_t>(col + i) * a.rows + row + x] = tile[x][i];
  if (row % 128 != 0 || col % 128 != 0 || y != 0) return;
  const float* scale = a.scale + (blockIdx.z * (a.rows / 128) + row / 128) * a.scale_stride + col / 128;
  float* line = a.out_scale + (blockIdx.z * (a.cols / 128) + col / 128) * a.out_scale_stride;
  if (x == 0) line[row / 128] = *scale;
  if (row != 0) return;
  for (std::int64_t i = a.rows / 128 + x; i < a.out_scale_stride; i += kTile) line[i] = 0;
}

}  // namespace

cudaError_t turn_codes(const TurnCodesArgs& a, cudaStream_t stream) {
  if (a.rows % 128 != 0 || a.cols % 128 != 0 || a.scale_stride < a.cols / 128 ||
      a.out_scale_stride < a.rows / 128)
    return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(a.cols / kTile), static_cast<unsigned>(a.rows / kTile),
                  static_cast<unsigned>(a.count));
  return launch(turn_kernel, grid, dim3(kTile, kLines), 0, stream, a);
}

}  // namespace trireme::cuda
