// BF16 warpgroup matrix multiplies for attention: A in shared memory (_ss) or registers (_rs), B in shared
// memory with k innermost (_nt, as keys lie) or columns innermost (_nn, as values lie). One instruction a
// function.
//
// Thread t of a warpgroup holds of D, in d[4 j + i], row 16 (t / 32) + (t % 32) / 4 + 8 (i / 2) and column
// 8 j + 2 (t % 4) + i % 2. Of A in registers, a[i] holds the pair of columns 2 (t % 4) + 8 (i / 2), + 1 of
// row 16 (t / 32) + (t % 32) / 4 + 8 (i % 2): a D of 16 columns, rounded and packed in pairs, is an A.
// accumulate false overwrites D.
#pragma once
#include <cstdint>

#define TRIREME_WG_ACC4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define TRIREME_WG_ACC16(d, i)                                                     \
  TRIREME_WG_ACC4(d, i), TRIREME_WG_ACC4(d, (i) + 4), TRIREME_WG_ACC4(d, (i) + 8), \
      TRIREME_WG_ACC4(d, (i) + 12)

namespace trireme::cuda {

// D[64, 64] (+)= A[64, 16] B[64, 16]^T; both K-major.
__device__ __forceinline__ void wgmma_bf16_n64_ss_nt(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                                     bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", %32, %33, p, 1, 1, 0, 0;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// D[64, 64] (+)= A[64, 16] B[64, 16]^T; A in registers, B K-major.
__device__ __forceinline__ void wgmma_bf16_n64_rs_nt(float (&d)[32], const std::uint32_t* a, std::uint64_t b,
                                                     bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

// D[64, 256] (+)= A[64, 16] B[16, 256]; A K-major, B MN-major.
__device__ __forceinline__ void wgmma_bf16_n256_ss_nn(float (&d)[128], std::uint64_t a, std::uint64_t b,
                                                      bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
      " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
      " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"
      " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111,"
      " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
      ", %128, %129, p, 1, 1, 0, 1;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16), TRIREME_WG_ACC16(d, 32), TRIREME_WG_ACC16(d, 48),
        TRIREME_WG_ACC16(d, 64), TRIREME_WG_ACC16(d, 80), TRIREME_WG_ACC16(d, 96), TRIREME_WG_ACC16(d, 112)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// D[64, 256] (+)= A[64, 16] B[16, 256]; A in registers, B MN-major.
__device__ __forceinline__ void wgmma_bf16_n256_rs_nn(float (&d)[128], const std::uint32_t* a,
                                                      std::uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
      " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
      " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"
      " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111,"
      " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
      ", {%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}"
      : TRIREME_WG_ACC16(d, 0), TRIREME_WG_ACC16(d, 16), TRIREME_WG_ACC16(d, 32), TRIREME_WG_ACC16(d, 48),
        TRIREME_WG_ACC16(d, 64), TRIREME_WG_ACC16(d, 80), TRIREME_WG_ACC16(d, 96), TRIREME_WG_ACC16(d, 112)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

}  // namespace trireme::cuda

#undef TRIREME_WG_ACC4
#undef TRIREME_WG_ACC16
