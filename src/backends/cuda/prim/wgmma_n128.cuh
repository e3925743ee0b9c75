// The warpgroup products of prefill attention, one instruction a function; conventions as in
// prim/wgmma_bf16.cuh.
#pragma once
#include <cstdint>

#define TRIREME_WG_ACC4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define TRIREME_WG_ACC16(d, i)                                                     \
  TRIREME_WG_ACC4(d, i), TRIREME_WG_ACC4(d, (i) + 4), TRIREME_WG_ACC4(d, (i) + 8), \
      TRIREME_WG_ACC4(d, (i) + 12)

namespace trireme::cuda::flash {

// D[64, 128] (+)= A[64, 16] B[128, 16]^T; both in shared memory, K-major.
__device__ __forceinline__ void wgmma_n128_ss_nt(float (&d)[64], std::uint64_t a, std::uint64_t b,
                                                 bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
      ", %64, %65, p, 1, 1, 0, 0;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16), TRIREME_WG_ACC16(d, 32), TRIREME_WG_ACC16(d, 48)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// D[64, 128] (+)= A[64, 16] B[128, 16]^T; A in registers, B K-major.
__device__ __forceinline__ void wgmma_n128_rs_nt(float (&d)[64], const std::uint32_t* a, std::uint64_t b,
                                                 bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
      ", {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16), TRIREME_WG_ACC16(d, 32), TRIREME_WG_ACC16(d, 48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// D[64, 128] (+)= A[64, 16] B[16, 128]; A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_nn(float (&d)[64], const std::uint32_t* a, std::uint64_t b,
                                            bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
      ", {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16), TRIREME_WG_ACC16(d, 32), TRIREME_WG_ACC16(d, 48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// D[64, 64] (+)= A[64, 16] B[16, 64]; A in registers, B MN-major.
__device__ __forceinline__ void wgmma_rs_nn(float (&d)[32], const std::uint32_t* a, std::uint64_t b,
                                            bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

}  // namespace trireme::cuda::flash

#undef TRIREME_WG_ACC4
#undef TRIREME_WG_ACC16
