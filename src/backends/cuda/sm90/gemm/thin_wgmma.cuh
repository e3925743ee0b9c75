#pragma once
// The multiplies of the thin kernel: those of prim/wgmma_f8.cuh, and one of 16 columns.

#include <cstdint>

#include "backends/cuda/prim/wgmma_f8.cuh"

namespace trireme::cuda {

// D[64, kN] (+)= A[64, 32] B[kN, 32]^T, e4m3; both from shared memory, K innermost.
template <int kN>
__device__ __forceinline__ void wgmma_thin(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b,
                                           bool accumulate) {
  if constexpr (kN == 16) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, 1;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
  } else {
    wgmma_ss_e4m3<kN>(d, a, b, accumulate);
  }
}

}  // namespace trireme::cuda
