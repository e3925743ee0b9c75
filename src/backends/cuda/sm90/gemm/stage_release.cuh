#pragma once
// A warp has read a stage of shared memory, and tells the producers of all CTAs that write to it: kPair, this
// one or a pair. In two halves, since the first costs instructions that need not stand between two
// multiplies.

#include <cstdint>

#include "backends/cuda/prim/cluster_memory.cuh"

namespace trireme::cuda {

template <int kPair>
__device__ __forceinline__ std::uint32_t release_address(const Mbarrier* empty) {
  return kPair == 1 ? smem_address(empty) : cluster_address(empty, threadIdx.x % kPair);
}

template <int kPair>
__device__ __forceinline__ void release_at(std::uint32_t address) {
  if (threadIdx.x % 32 >= kPair) return;
  if constexpr (kPair == 1) {
    mbarrier_arrive_at(address);
  } else {
    mbarrier_arrive_at_relaxed(address);
  }
}

template <int kPair>
__device__ __forceinline__ void release_stage(const Mbarrier* empty) {
  release_at<kPair>(release_address<kPair>(empty));
}

}  // namespace trireme::cuda
