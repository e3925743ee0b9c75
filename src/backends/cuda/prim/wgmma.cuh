// Warpgroup matrix instructions (Hopper, sm_90a): ordering, and descriptors of operands in shared memory.
//
// A warpgroup is 4 consecutive warps whose first warp index is a multiple of 4; all 128 threads execute each
// of these together. Order of a chain: wgmma_fence, the wgmmas, wgmma_commit, wgmma_wait<N>.
#pragma once
#include <cstdint>

namespace trireme::cuda {

// Before the first wgmma of a chain, and whenever ordinary code has written its accumulators or A registers.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes a group: everything issued since the last commit.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most N groups are pending.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from moving reads or writes of registers that a wgmma uses across this point.
template <int N>
__device__ __forceinline__ void wgmma_hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N>
__device__ __forceinline__ void wgmma_hold(uint32_t (&a)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

// Descriptors of operands in the 128-byte swizzle: byte b of a 1024-byte aligned region of 8 rows of 128
// bytes lies at b ^ ((b >> 3) & 0x70), as a TMA box 128 bytes wide with SWIZZLE_128B leaves it.
inline constexpr uint64_t kWgmmaSwizzle128 = uint64_t{1} << 62;

__device__ __forceinline__ uint64_t wgmma_address(const void* smem) {
  return (static_cast<uint64_t>(__cvta_generic_to_shared(smem)) & 0x3FFFF) >> 4;
}

// K-major ([rows][128 bytes of k]): groups of 8 rows lie `group_bytes` apart (1024 when rows are dense).
// To step along k inside the 128 bytes, add (bytes >> 4) to the descriptor: 2 for 16 bf16 or 32 fp8.
__device__ __forceinline__ uint64_t wgmma_desc_k_major(const void* smem, uint32_t group_bytes = 1024) {
  return kWgmmaSwizzle128 | (static_cast<uint64_t>(group_bytes >> 4) << 32) | (uint64_t{1} << 16) |
         wgmma_address(smem);
}

// MN-major, 16-bit types only ([k][64 columns]): a chunk of 64 columns is `k` rows of 128 bytes; the next 64
// columns begin `chunk_bytes` later. To step 16 along k, add 2048 >> 4 = 128 to the descriptor.
__device__ __forceinline__ uint64_t wgmma_desc_mn_major(const void* smem, uint32_t chunk_bytes) {
  return kWgmmaSwizzle128 | (uint64_t{1024 >> 4} << 32) | (static_cast<uint64_t>(chunk_bytes >> 4) << 16) |
         wgmma_address(smem);
}

}  // namespace trireme::cuda
