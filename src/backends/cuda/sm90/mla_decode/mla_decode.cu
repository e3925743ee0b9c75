#include "backends/cuda/sm90/mla_decode/mla_decode.h"

#include <algorithm>

#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/mla_decode/combine.cuh"
#include "backends/cuda/sm90/mla_decode/load_fp8.cuh"
#include "backends/cuda/sm90/mla_decode/math.cuh"
#include "backends/cuda/sm90/mla_decode/plan.h"

namespace trireme::cuda {
namespace mla {
namespace {

constexpr int kThreads = 384;    // two math warpgroups, then one that loads
constexpr int kRegisters = 168;  // of a thread at launch: what 384 threads can have; more would never come
constexpr int kCombineCtasEach = 5;  // of a multiprocessor

template <bool kFp8>
__device__ void init_barriers(SharedMemory& s) {
  mbarrier_init(&s.q_full, 1);
  mbarrier_init(&s.q_free, 8);  // math warps
  for (int b = 0; b < 2; ++b) {
    for (int box = 0; box < kBoxes; ++box) mbarrier_init(&s.k_full[b][box], kFp8 && box != kRopeBox ? 4 : 1);
    mbarrier_init(&s.k_rope_free[b], 4);
    for (int h = 0; h < 2; ++h) mbarrier_init(&s.k_half_free[b][h], 4);
    mbarrier_init(&s.p_ready[b], 4);
  }
  fence_mbarrier_init();
}

template <bool kFp8>
__global__ __launch_bounds__(kThreads, 1) void decode_kernel(const __grid_constant__ Params p,
                                                             const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  SharedMemory& s = *reinterpret_cast<SharedMemory*>(shared_bytes);
  if (threadIdx.x == 0) init_barriers<kFp8>(s);
  if (threadIdx.x == 256) {
    prefetch_tensor_map(&maps.q_latent);
    prefetch_tensor_map(&maps.q_rope);
    prefetch_tensor_map(&maps.cache);
  }
  __syncthreads();
  grid_dependency_wait();
  grid_launch_dependents();

  constexpr int kLoadRegisters = kFp8 ? 88 : 40, kMathRegisters = kFp8 ? 208 : 232;
  static_assert(kLoadRegisters + 2 * kMathRegisters <= 3 * kRegisters);
  const Part part = make_part(p);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 2) {
    register_limit_decrease<kLoadRegisters>();
    if constexpr (kFp8)
      load_pages_fp8(s, p, maps, part, static_cast<int>(threadIdx.x) % 128);
    else if (threadIdx.x < 288)
      load_pages(s, p, maps, part);
  } else {
    register_limit_increase<kMathRegisters>();
    MathWarpgroup<!kFp8> math(s, p, part, warpgroup, static_cast<int>(threadIdx.x) % 128);
    math.run();
  }
}

template <bool kFp8>
cudaError_t launch(const Params& p, const Maps& maps, cudaStream_t stream) {
  constexpr auto kernel = decode_kernel<kFp8>;
  // Every time: it holds for one device, and a process may have several.
  const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  static_cast<int>(sizeof(SharedMemory)));
  if (raised != cudaSuccess) return raised;
  kernel<<<static_cast<unsigned>(p.layout.parts * p.layout.tiles), kThreads, sizeof(SharedMemory), stream>>>(
      p, maps);
  return cudaGetLastError();
}

// unit_rows: the most that a sequence can have.
cudaError_t launch_combine(const Params& p, int unit_rows, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.layout.parts * p.layout.tiles * kCombineCtasEach));
  config.blockDim = dim3(kCombineThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, combine_kernel, p,
                            (std::min(unit_rows, kTileRows) + 7) / 8 * kCombineQuarters);
}

std::size_t partial_rows(const PlanLayout& l) {
  return std::size_t{2} * static_cast<std::size_t>(l.parts * l.tiles) * kTileRows;
}

cudaError_t encode_maps(const MlaDecodeArgs& a, Maps& maps) {
  const auto rows = static_cast<std::uint64_t>(a.shape.tokens) * static_cast<std::uint64_t>(a.shape.heads);
  const auto encode = [](const void* base, std::uint64_t n, std::uint64_t columns, std::int64_t stride,
                         CUtensorMap& map) {
    return encode_tensor_map(matrix_map(base, MapType::bf16, n, columns,
                                        static_cast<std::uint64_t>(stride) * 2, 64, 64, MapSwizzle::b128),
                             &map);
  };
  const int token_columns = a.cache_type == MlaCache::fp8 ? kFp8TokenColumns : kLatent + kRope;
  cudaError_t e = encode(a.q_latent, rows, kLatent, a.q_latent_stride, maps.q_latent);
  if (e == cudaSuccess) e = encode(a.q_rope, rows, kRope, a.q_rope_stride, maps.q_rope);
  if (e == cudaSuccess)
    e = encode(a.cache, static_cast<std::uint64_t>(a.blocks) * kPage,
               static_cast<std::uint64_t>(token_columns), token_columns, maps.cache);
  return e;
}

}  // namespace
}  // namespace mla

std::size_t mla_decode_workspace_bytes(const MlaDecodeShape& s) {
  MlaDecodeShape narrow = s;
  narrow.max_query_tokens = 0;
  return mla::partial_rows(mla::plan_layout(narrow)) * (mla::kLatent + 1) * sizeof(float);
}

cudaError_t mla_decode(const MlaDecodeArgs& a, cudaStream_t stream) {
  using namespace mla;
  if (a.shape.heads < 1 || a.shape.heads > kMlaDecodeMaxHeads || a.shape.multiprocessors < 2)
    return cudaErrorInvalidValue;
  if (a.shape.tokens == 0 || a.shape.seqs == 0) return cudaSuccess;
  Maps maps{};
  if (const cudaError_t e = encode_maps(a, maps); e != cudaSuccess) return e;
  Params p{};
  p.layout = plan_layout(a.shape);
  p.plan = static_cast<const unsigned char*>(a.plan);
  p.block_table = a.block_table;
  p.block_table_stride = a.block_table_stride;
  p.tree_mask = a.tree_mask;
  p.cache = static_cast<const unsigned char*>(a.cache);
  p.out = static_cast<std::uint16_t*>(a.out);
  p.out_stride = a.out_stride;
  p.lse = a.lse;
  p.partials.out = static_cast<float*>(a.workspace);
  p.partials.lse = p.partials.out + partial_rows(p.layout) * kLatent;
  p.scale_log2 = a.scale * 1.4426950408889634f;
  p.heads = a.shape.heads;

  p.page_bytes = kPage * (a.cache_type == MlaCache::fp8 ? kFp8Token : (kLatent + kRope) * 2);
  const cudaError_t e =
      a.cache_type == MlaCache::fp8 ? launch<true>(p, maps, stream) : launch<false>(p, maps, stream);
  if (e != cudaSuccess || a.shape.split == MlaSplit::never) return e;
  return launch_combine(p, a.shape.heads * a.shape.max_query_tokens, stream);
}

}  // namespace trireme::cuda
