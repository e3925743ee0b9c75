#pragma once
// Warpgroup matrix multiplies with both operands in shared memory, for the GEMM kernels: one instruction a
// function. Thread t of a warpgroup holds of D, in d[4 j + i], row 16 (t / 32) + (t % 32) / 4 + 8 (i / 2) and
// column 8 j + 2 (t % 4) + i % 2.

#include <cstdint>

#include "backends/cuda/prim/wgmma.cuh"

#define TRIREME_ACC4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define TRIREME_ACC16(d, i) \
  TRIREME_ACC4(d, i), TRIREME_ACC4(d, (i) + 4), TRIREME_ACC4(d, (i) + 8), TRIREME_ACC4(d, (i) + 12)

namespace trireme::cuda {

// wgmma_desc_k_major of dense rows from an address that is a number already: warp-uniform where the address
// is.
__device__ __forceinline__ std::uint64_t wgmma_operand(std::uint32_t address) {
  return kWgmmaSwizzle128 | (std::uint64_t{1024 >> 4} << 32) | (std::uint64_t{1} << 16) |
         ((address & 0x3FFFF) >> 4);
}

// D[64, kN] (+)= A[64, 32] B[kN, 32]^T, e4m3; both from shared memory, K innermost. accumulate false
// overwrites D.
template <int kN>
__device__ __forceinline__ void wgmma_ss_e4m3(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b,
                                              bool accumulate);

// D[64, kN] (+)= A[64, 16] B[kN, 16]^T, BF16; both from shared memory, K innermost. accumulate false
// overwrites D.
template <int kN>
__device__ __forceinline__ void wgmma_ss_bf16(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b,
                                              bool accumulate);

template <>
__device__ __forceinline__ void wgmma_ss_e4m3<32>(float (&d)[16], std::uint64_t a, std::uint64_t b,
                                                  bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
      ", %16, %17, p, 1, 1;\n}"
      : TRIREME_ACC16(d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ __forceinline__ void wgmma_ss_e4m3<64>(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                                  bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", %32, %33, p, 1, 1;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ __forceinline__ void wgmma_ss_e4m3<128>(float (&d)[64], std::uint64_t a, std::uint64_t b,
                                                   bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
      ", %64, %65, p, 1, 1;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16), TRIREME_ACC16(d, 32), TRIREME_ACC16(d, 48)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ __forceinline__ void wgmma_ss_e4m3<192>(float (&d)[96], std::uint64_t a, std::uint64_t b,
                                                   bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
      " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
      " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}"
      ", %96, %97, p, 1, 1;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16), TRIREME_ACC16(d, 32), TRIREME_ACC16(d, 48),
        TRIREME_ACC16(d, 64), TRIREME_ACC16(d, 80)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ __forceinline__ void wgmma_ss_bf16<64>(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                                  bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", %32, %33, p, 1, 1, 0, 0;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ __forceinline__ void wgmma_ss_bf16<128>(float (&d)[64], std::uint64_t a, std::uint64_t b,
                                                   bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
      ", %64, %65, p, 1, 1, 0, 0;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16), TRIREME_ACC16(d, 32), TRIREME_ACC16(d, 48)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ __forceinline__ void wgmma_ss_bf16<256>(float (&d)[128], std::uint64_t a, std::uint64_t b,
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
      ", %128, %129, p, 1, 1, 0, 0;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16), TRIREME_ACC16(d, 32), TRIREME_ACC16(d, 48),
        TRIREME_ACC16(d, 64), TRIREME_ACC16(d, 80), TRIREME_ACC16(d, 96), TRIREME_ACC16(d, 112)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// D[64, N] (+)= A[64, 32] B[N, 32]^T, e4m3; A in registers: a[i] holds values 4 (t % 4) + 16 (i / 2) .. + 3
// of row 16 (t / 32) + (t % 32) / 4 + 8 (i % 2). B in shared memory, K innermost.
__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[32], const std::uint32_t* a, std::uint64_t b,
                                              bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
      ", {%32, %33, %34, %35}, %36, p, 1, 1;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

__device__ __forceinline__ void wgmma_rs_e4m3(float (&d)[64], const std::uint32_t* a, std::uint64_t b,
                                              bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
      ", {%64, %65, %66, %67}, %68, p, 1, 1;\n}"
      : TRIREME_ACC16(d, 0), TRIREME_ACC16(d, 16), TRIREME_ACC16(d, 32), TRIREME_ACC16(d, 48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}

}  // namespace trireme::cuda

#undef TRIREME_ACC16
#undef TRIREME_ACC4
