#pragma once
// The shared memory of other CTAs of the cluster: one instruction a function.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"

namespace trireme::cuda {

// The address that `p` of this CTA's shared memory has in CTA `rank` of the cluster (which may be this one).
__device__ __forceinline__ std::uint32_t cluster_address(const void* p, std::uint32_t rank) {
  std::uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(smem_address(p)), "r"(rank));
  return remote;
}

// 16 bytes at a cluster_address.
__device__ __forceinline__ float4 load_cluster(std::uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

}  // namespace trireme::cuda
