#include "backends/cuda/sm90/router_gemm/router_gemm.h"

#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/router_gemm/kernel.cuh"
#include "backends/cuda/smxx/choose.h"

namespace trireme::cuda {
namespace {

using namespace router;

bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

bool valid(const RouterGemmArgs& a) {
  return aligned16(a.x) && aligned16(a.w) && a.out != nullptr && a.rows >= 0 && a.rows <= 64 * 65535 &&
         a.n > 0 && a.n <= (1 << 20) && a.k > 0 && a.k % 8 == 0 && a.x_stride % 8 == 0 && a.x_stride >= a.k &&
         a.out_stride >= a.n;
}

template <int kColumns>
cudaError_t start(const RouterGemmArgs& a, cudaStream_t stream) {
  const auto rows = static_cast<std::uint64_t>(a.rows), n = static_cast<std::uint64_t>(a.n),
             k = static_cast<std::uint64_t>(a.k);
  CUtensorMap x, w;
  cudaError_t e =
      encode_tensor_map(matrix_map(a.x, MapType::bf16, rows, k, static_cast<std::uint64_t>(a.x_stride) * 2,
                                   kRows, kStepK, MapSwizzle::b128),
                        &x);
  if (e == cudaSuccess)
    e = encode_tensor_map(matrix_map(a.w, MapType::bf16, n, k, k * 2, kColumns, kStepK, MapSwizzle::b128),
                          &w);
  constexpr int kSmem = Sizes<kColumns>::kSmemBytes;
  if (e == cudaSuccess)
    e = cudaFuncSetAttribute(router_kernel<kColumns>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (e != cudaSuccess) return e;
  const Params p{static_cast<int>(a.rows), a.n, (a.k + kStepK - 1) / kStepK, a.out, a.out_stride};
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = kRouterSlices;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((a.n + kColumns - 1) / kColumns * kRouterSlices),
                        static_cast<unsigned>((a.rows + kRows - 1) / kRows));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSmem;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, router_kernel<kColumns>, x, w, p);
}

}  // namespace

cudaError_t router_gemm(const RouterGemmArgs& a, cudaStream_t stream) {
  if (!valid(a)) return cudaErrorInvalidValue;
  if (a.rows == 0) return cudaSuccess;
  const int columns =
      a.columns != 0 ? a.columns
                     : choose_router_columns(a.rows, a.n, a.k, static_cast<int>(smxx::multiprocessors()));
  switch (columns) {
    case 16:
      return start<16>(a, stream);
    case 32:
      return start<32>(a, stream);
    case 64:
      return start<64>(a, stream);
    case 128:
      return start<128>(a, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace trireme::cuda
