#pragma once
// The bulk tensor copy engine: loads complete on an mbarrier, stores on a bulk group. One thread issues each.
// Coordinates are in elements, innermost first. The tensor map is a __grid_constant__ kernel parameter (see
// tensor_map.h).

#include <cuda.h>

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"

namespace trireme::cuda {

// How long a line should live in L2 (the encodings that createpolicy yields for a fraction of 1).
enum class L2Hint : std::uint64_t {
  normal = 0x1000000000000000ull,
  evict_first = 0x12F0000000000000ull,  // read once: streams past what others keep
  evict_last = 0x14F0000000000000ull,   // read by many CTAs
};

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<std::uint64_t>(map)) : "memory");
}

__device__ __forceinline__ void tma_load_2d(void* dst, const CUtensorMap* map, Mbarrier* bar, int c0, int c1,
                                            L2Hint hint = L2Hint::normal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(smem_address(dst)),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(smem_address(bar)),
      "l"(static_cast<std::uint64_t>(hint)), "r"(c0), "r"(c1)
      : "memory");
}

// `bytes` as they lie, a multiple of 16; both ends 16-byte aligned.
__device__ __forceinline__ void bulk_load(void* dst, const void* src, std::uint32_t bytes, Mbarrier* bar,
                                          L2Hint hint = L2Hint::normal) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], "
      "%4;" ::"r"(smem_address(dst)),
      "l"(reinterpret_cast<std::uint64_t>(src)), "r"(bytes), "r"(smem_address(bar)),
      "l"(static_cast<std::uint64_t>(hint))
      : "memory");
}

// Writes the same offset of every CTA whose bit is set in `ctas`, and completes on the barrier there.
__device__ __forceinline__ void tma_load_2d_multicast(void* dst, const CUtensorMap* map, Mbarrier* bar,
                                                      std::uint16_t ctas, int c0, int c1,
                                                      L2Hint hint = L2Hint::normal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1, {%5, %6}], [%2], %3, %4;" ::"r"(smem_address(dst)),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(smem_address(bar)), "h"(ctas),
      "l"(static_cast<std::uint64_t>(hint)), "r"(c0), "r"(c1)
      : "memory");
}

// REQUIRES: fence_proxy_async by the writers of src and a barrier before it.
__device__ __forceinline__ void tma_store_2d(const CUtensorMap* map, const void* src, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
                   reinterpret_cast<std::uint64_t>(map)),
               "r"(smem_address(src)), "r"(c0), "r"(c1)
               : "memory");
}

__device__ __forceinline__ void tma_load_3d(void* dst, const CUtensorMap* map, Mbarrier* bar, int c0, int c1,
                                            int c2, L2Hint hint = L2Hint::normal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(smem_address(dst)),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(smem_address(bar)),
      "l"(static_cast<std::uint64_t>(hint)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// Writes the same offset of every CTA whose bit is set in `ctas`, and completes on the barrier there.
__device__ __forceinline__ void tma_load_3d_multicast(void* dst, const CUtensorMap* map, Mbarrier* bar,
                                                      std::uint16_t ctas, int c0, int c1, int c2,
                                                      L2Hint hint = L2Hint::normal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1, {%5, %6, %7}], [%2], %3, %4;" ::"r"(smem_address(dst)),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(smem_address(bar)), "h"(ctas),
      "l"(static_cast<std::uint64_t>(hint)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// REQUIRES: fence_proxy_async by the writers of src and a barrier before it.
__device__ __forceinline__ void tma_store_3d(const CUtensorMap* map, const void* src, int c0, int c1,
                                             int c2) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
                   reinterpret_cast<std::uint64_t>(map)),
               "r"(smem_address(src)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}

__device__ __forceinline__ void tma_load_4d(void* dst, const CUtensorMap* map, Mbarrier* bar, int c0, int c1,
                                            int c2, int c3, L2Hint hint = L2Hint::normal) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(smem_address(dst)),
      "l"(reinterpret_cast<std::uint64_t>(map)), "r"(smem_address(bar)),
      "l"(static_cast<std::uint64_t>(hint)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// REQUIRES: fence_proxy_async by the writers of src and a barrier before it.
__device__ __forceinline__ void tma_store_4d(const CUtensorMap* map, const void* src, int c0, int c1, int c2,
                                             int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
                   reinterpret_cast<std::uint64_t>(map)),
               "r"(smem_address(src)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until at most kPending of this thread's groups still read shared memory.
template <int kPending>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Until at most kPending of this thread's groups are incomplete.
template <int kPending>
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

// Asks for the line of global memory at `p` to be brought into the SM's L1 cache.
__device__ __forceinline__ void prefetch_l1(const void* p) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(p));
}

}  // namespace trireme::cuda
