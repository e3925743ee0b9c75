// Multiplies of few columns, and stores into the shared memory of another CTA: one instruction a function.
#pragma once
#include <cstdint>

#include "backends/cuda/prim/wgmma_f8.cuh"

#define TRIREME_ACC4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])

namespace trireme::cuda::router {

// D[64, N] (+)= A[64, 16] B[N, 16]^T; both in shared memory, K innermost.
__device__ __forceinline__ void multiply(float (&d)[8], std::uint64_t a, std::uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, 1, 0, 0;\n}"
      : TRIREME_ACC4(d, 0), TRIREME_ACC4(d, 4)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void multiply(float (&d)[16], std::uint64_t a, std::uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1, 0, 0;\n}"
      : TRIREME_ACC4(d, 0), TRIREME_ACC4(d, 4), TRIREME_ACC4(d, 8), TRIREME_ACC4(d, 12)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void multiply(float (&d)[32], std::uint64_t a, std::uint64_t b, bool accumulate) {
  wgmma_ss_bf16<64>(d, a, b, accumulate);
}

__device__ __forceinline__ void multiply(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulate) {
  wgmma_ss_bf16<128>(d, a, b, accumulate);
}

// The address that `address` of this CTA's shared memory has in CTA `rank` of the cluster.
__device__ __forceinline__ std::uint32_t address_in(std::uint32_t address, std::uint32_t rank) {
  std::uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

// Two values to another CTA, completed on the barrier there; both are address_in of the same CTA.
__device__ __forceinline__ void store_async2(std::uint32_t address, float a, float b, std::uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(address),
      "f"(a), "f"(b), "r"(barrier)
      : "memory");
}

}  // namespace trireme::cuda::router

#undef TRIREME_ACC4
