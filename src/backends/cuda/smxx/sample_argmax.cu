#include <cooperative_groups.h>

#include "backends/cuda/smxx/sample_rank.cuh"

namespace trireme::cuda {
namespace {

using namespace sampling;
namespace cg = cooperative_groups;

constexpr int kThreads = 512;

struct Best {
  float value = -INFINITY;
  int id = 0x7fffffff;
  bool nan = false;
  // Ids come in rising order.
  __device__ void see(float x, int i) {
    nan |= x != x;
    if (x > value) {
      value = x;
      id = i;
    }
  }
};

// A cluster a row, a stretch of the row each of its blocks.
__global__ void __launch_bounds__(kThreads) argmax(DrawArgs a) {
  __shared__ uint64_t warp_best[kThreads / 32], block_best;
  cg::cluster_group cluster = cg::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks()), tid = threadIdx.x;
  const int64_t row = blockIdx.x / blocks;
  const float* const logits = a.logits + row * a.row_stride;
  const int part = (a.vocab + blocks - 1) / blocks;
  const int begin = min(a.vocab, static_cast<int>(cluster.block_rank()) * part);
  const int end = min(a.vocab, begin + part);
  // Up to three values until loads of four are aligned, and up to three after the last of them.
  const int skew = static_cast<int>(reinterpret_cast<uintptr_t>(logits + begin) / 4 % 4);
  const int body = min(end, begin + (4 - skew) % 4), tail = body + (end - body) / 4 * 4;
  Best best;
  if (begin + tid < body) best.see(logits[begin + tid], begin + tid);
#pragma unroll 4
  for (int i = body + 4 * tid; i < tail; i += 4 * kThreads) {
    const float4 v = __ldcs(reinterpret_cast<const float4*>(logits + i));
    best.see(v.x, i);
    best.see(v.y, i + 1);
    best.see(v.z, i + 2);
    best.see(v.w, i + 3);
  }
  if (tail + tid < end) best.see(logits[tail + tid], tail + tid);
  uint64_t rank = warp_max(best.nan ? ~uint64_t{0} : rank_of(best.value, best.id));
  if (tid % 32 == 0) warp_best[tid / 32] = rank;
  __syncthreads();
  if (tid < 32) {
    rank = warp_max(warp_best[tid % (kThreads / 32)]);
    if (tid == 0) block_best = rank;
  }
  cluster.sync();
  if (cluster.block_rank() == 0 && tid == 0) {
    for (int b = 1; b < blocks; ++b) rank = max(rank, *cluster.map_shared_rank(&block_best, b));
    const int32_t status = status_of_best(static_cast<uint32_t>(rank >> 32));
    a.status[row] = status;
    a.ids[row] = status == kSampled ? id_of(rank) : 0;
  }
  cluster.sync();  // the first block has read what the others hold
}

}  // namespace

cudaError_t sample_argmax(const DrawArgs& a, cudaStream_t stream) {
  if (a.rows == 0) return cudaSuccess;
  const int blocks = a.vocab < 16384 ? 1 : a.rows <= 48 ? 8 : 4;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(a.rows * blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, argmax, a);
}

}  // namespace trireme::cuda
