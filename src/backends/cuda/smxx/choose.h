// How the elementwise kernels see their work: whether 16-byte accesses fit a matrix, how wide the chip is.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda::smxx {

// Rows of `n` elements of `size` bytes, `stride` elements apart, that begin and end on 16 bytes. A null
// pointer is no matrix and fits.
inline bool wide(const void* p, int64_t stride, int64_t size, int64_t n) {
  return p == nullptr ||
         (reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride * size % 16 == 0 && n * size % 16 == 0);
}

// Of the current device, asked once: one process serves one kind of GPU.
inline int64_t multiprocessors() {
  static const int count = [] {
    int device = 0, n = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device);
    return n > 0 ? n : 1;
  }();
  return count;
}

}  // namespace trireme::cuda::smxx
