#include "backends/cuda/prim/tensor_map.h"

namespace trireme::cuda {
namespace {

using EncodeFn = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Through the runtime, so that programs need not link libcuda (machines without a GPU have none).
EncodeFn find_encode() {
  void* fn = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const cudaError_t e =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault, &found);
  return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeFn>(fn) : nullptr;
}

CUtensorMapDataType data_type(MapType t) {
  switch (t) {
    case MapType::u8:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case MapType::bf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case MapType::f32:
      break;
  }
  return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

CUtensorMapSwizzle swizzle_mode(MapSwizzle s) {
  switch (s) {
    case MapSwizzle::b32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    case MapSwizzle::b64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case MapSwizzle::b128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    case MapSwizzle::none:
      break;
  }
  return CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

cudaError_t encode_tensor_map(const TensorMapSpec& spec, CUtensorMap* out) {
  static const EncodeFn encode = find_encode();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint32_t element_strides[5] = {1, 1, 1, 1, 1};
  cuuint64_t dims[5];
  cuuint64_t strides[4];
  for (int i = 0; i < 5; ++i) dims[i] = spec.dims[i];
  for (int i = 0; i < 4; ++i) strides[i] = spec.stride_bytes[i];
  const CUresult r = encode(out, data_type(spec.type), static_cast<cuuint32_t>(spec.rank),
                            const_cast<void*>(spec.base), dims, strides, spec.box, element_strides,
                            CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_mode(spec.swizzle),
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

TensorMapSpec matrix_map(const void* base, MapType type, std::uint64_t rows, std::uint64_t cols,
                         std::uint64_t row_stride_bytes, std::uint32_t box_rows, std::uint32_t box_cols,
                         MapSwizzle swizzle) {
  TensorMapSpec spec;
  spec.base = base;
  spec.type = type;
  spec.rank = 2;
  spec.dims[0] = cols;
  spec.dims[1] = rows;
  spec.stride_bytes[0] = row_stride_bytes;
  spec.box[0] = box_cols;
  spec.box[1] = box_rows;
  spec.swizzle = swizzle;
  return spec;
}

}  // namespace trireme::cuda
