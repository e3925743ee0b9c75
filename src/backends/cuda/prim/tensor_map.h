#pragma once
// Tensor maps: how the copy engine sees a matrix in global memory. Encoded on the host, passed to kernels by
// value as
// __grid_constant__ parameters. Thread-safe.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

enum class MapType : std::uint8_t { u8, bf16, f32 };
enum class MapSwizzle : std::uint8_t { none, b32, b64, b128 };

// The innermost dimension first, as the copy engine counts. Elements outside dims read as zero and are not
// written.
struct TensorMapSpec {
  const void* base = nullptr;  // device; 16-byte aligned
  MapType type = MapType::u8;
  int rank = 2;                        // 2..5
  std::uint64_t dims[5] = {};          // elements
  std::uint64_t stride_bytes[4] = {};  // of dimension 1, 2, ...; multiples of 16
  std::uint32_t box[5] = {};  // elements a copy moves; each <= 256; the inner one in bytes a multiple of 16,
                              // and no wider than the swizzle
  MapSwizzle swizzle = MapSwizzle::b128;
};

// cudaErrorInvalidValue where the driver refuses the spec; cudaErrorNotSupported where it has no tensor maps.
cudaError_t encode_tensor_map(const TensorMapSpec&, CUtensorMap* out);

// A row-major matrix [rows, cols] with rows `row_stride_bytes` apart, copied in boxes of [box_rows,
// box_cols].
TensorMapSpec matrix_map(const void* base, MapType, std::uint64_t rows, std::uint64_t cols,
                         std::uint64_t row_stride_bytes, std::uint32_t box_rows, std::uint32_t box_cols,
                         MapSwizzle);

}  // namespace trireme::cuda
