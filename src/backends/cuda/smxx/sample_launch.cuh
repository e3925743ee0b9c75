// A cluster of blocks for each row.
#pragma once
#include "backends/cuda/smxx/sample_cluster.h"
#include "backends/cuda/smxx/sample_row.cuh"

namespace trireme::cuda::sampling {

static_assert(sizeof(Shared) + kMaxBlockLogits * sizeof(float) <= 227 * 1024);

template <class Args>
cudaError_t launch_rows(void (*kernel)(Args), const Args& args, int rows, int vocab, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const int blocks = sample_blocks(vocab);
  if (blocks == 0) return cudaErrorInvalidValue;
  const size_t bytes = shared_bytes(stretch_of(vocab, blocks));
  const cudaError_t e =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (e != cudaSuccess) return e;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(rows * blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace trireme::cuda::sampling
