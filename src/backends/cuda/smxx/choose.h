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

// How 256 threads that take 8 values each lie over a matrix: 2^log of them along a row, at least 16.
struct Tiling {
  int log = 4;
  int64_t columns = 0, rows = 0;  // tiles across, and rows in a tile
};
inline Tiling tiling(int64_t n) {
  const int64_t vectors = (n + 127) / 128 * 16;
  Tiling best;
  for (int log = 4; log <= 8; ++log) {
    const int64_t across = (vectors + (1 << log) - 1) >> log;
    // The widest of those that leave fewest threads idle.
    if (log == 4 || across << log <= best.columns << best.log) best = {log, across, 256 >> log};
  }
  return best;
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
