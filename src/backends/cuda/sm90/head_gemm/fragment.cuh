// A warp's 16 rows in the 128-byte swizzle, and multiplies whose first operand is e4m3 in registers.
#pragma once
#include <cstdint>

#define TRIREME_ACC4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define TRIREME_ACC16(d, i) \
  TRIREME_ACC4(d, i), TRIREME_ACC4(d, (i) + 4), TRIREME_ACC4(d, (i) + 8), TRIREME_ACC4(d, (i) + 12)

namespace trireme::cuda::head {

// Byte offset of 16-byte chunk `chunk` of row `row` in rows of 128 bytes.
__device__ __forceinline__ std::uint32_t swizzled(int row, int chunk) {
  return static_cast<std::uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

__device__ __forceinline__ void store_matrix4(std::uint32_t address, const std::uint32_t (&v)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v[0]),
               "r"(v[1]), "r"(v[2]), "r"(v[3])
               : "memory");
}

__device__ __forceinline__ uint2 load_shared8(std::uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
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

}  // namespace trireme::cuda::head

#undef TRIREME_ACC16
#undef TRIREME_ACC4
