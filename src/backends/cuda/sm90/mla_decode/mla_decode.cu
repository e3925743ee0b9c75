#include "backends/cuda/sm90/mla_decode/mla_decode.h"

#include <algorithm>

#include "backends/cuda/prim/tensor_map.h"
#include "backends/cuda/sm90/mla_decode/combine.cuh"
#include "backends/cuda/sm90/mla_decode/load_fp8.cuh"
#include "backends/cuda/sm90/mla_decode/math.cuh"
#include "backends/cuda/sm90/mla_decode/math_fp8.cuh"
#include "backends/cuda/sm90/mla_decode/plan.h"
#include "backends/cuda/sm90/mla_decode/query_fp8.cuh"

namespace trireme::cuda {
namespace mla {
namespace {

constexpr int kThreads = 384;    // two math warpgroups, then one that loads
constexpr int kRegisters = 168;  // of a thread at launch: what 384 threads can have; more would never come
constexpr int kCombineCtasEach = 5;  // of a multiprocessor

constexpr int kGroup = 128;  // threads of a math warpgroup, all of which arrive at its barriers

// Of a thread that loads and of one that multiplies.
constexpr int kLoadRegisters = 40, kMathRegisters = 232;
static_assert(kLoadRegisters + 2 * kMathRegisters <= 3 * kRegisters);

__global__ __launch_bounds__(kThreads, 1) void decode_kernel(const __grid_constant__ Params p,
                                                             const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  SharedMemory& s = *reinterpret_cast<SharedMemory*>(shared_bytes);
  if (threadIdx.x == 0) {
    mbarrier_init(&s.q_full, 1);
    mbarrier_init(&s.q_free, 2 * kGroup);
    for (int b = 0; b < 2; ++b) {
      for (Mbarrier& full : s.k_full[b]) mbarrier_init(&full, 1);
      mbarrier_init(&s.k_rope_free[b], kGroup);
      for (Mbarrier& free : s.k_half_free[b]) mbarrier_init(&free, kGroup);
      mbarrier_init(&s.p_ready[b], kGroup);
    }
    mbarrier_init(&s.sums_ready, 2 * kGroup);
    fence_mbarrier_init();
  }
  if (threadIdx.x == 256) {
    prefetch_tensor_map(&maps.q_latent);
    prefetch_tensor_map(&maps.q_rope);
    prefetch_tensor_map(&maps.cache);
  }
  __syncthreads();
  grid_dependency_wait();
  grid_launch_dependents();

  const Part part = make_part(p);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 2) {
    register_limit_decrease<kLoadRegisters>();
    if (threadIdx.x < 288) load_pages(s, p, maps, part);
  } else {
    register_limit_increase<kMathRegisters>();
    MathWarpgroup math(s, p, part, warpgroup, static_cast<int>(threadIdx.x) % 128);
    math.run();
  }
}

__global__ __launch_bounds__(kThreads, 1) void decode_fp8_kernel(const __grid_constant__ Params p,
                                                                 const __grid_constant__ Fp8Maps maps) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  Fp8SharedMemory& s = *reinterpret_cast<Fp8SharedMemory*>(shared_bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kFp8Pages; ++i) {
      for (int half = 0; half < 2; ++half) {
        mbarrier_init(&s.half_full[half][i], 1);
        mbarrier_init(&s.half_free[half][i], kGroup);
      }
      mbarrier_init(&s.p_ready[i], kGroup);
    }
    mbarrier_init(&s.q_full, 32);
    mbarrier_init(&s.q_free, 2 * kGroup);
    for (Mbarrier& ready : s.max_ready) mbarrier_init(&ready, kGroup);
    mbarrier_init(&s.sums_ready, 2 * kGroup);
    fence_mbarrier_init();
  }
  if (threadIdx.x == 256) {
    prefetch_tensor_map(&maps.q_codes);
    prefetch_tensor_map(&maps.q_rope);
    prefetch_tensor_map(&maps.codes);
    prefetch_tensor_map(&maps.rope);
  }
  __syncthreads();
  grid_dependency_wait();
  grid_launch_dependents();

  const Part part = make_part(p);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp >= 8) {
    register_limit_decrease<kLoadRegisters>();
    if (warp == 8) load_fp8_pages(s, p, maps, part);
    if (warp == 9) load_fp8_queries(s, p, maps, part);
  } else {
    register_limit_increase<kMathRegisters>();
    Fp8MathWarpgroup math(s, p, part, warp / 4, static_cast<int>(threadIdx.x) % 128);
    math.run();
  }
}

template <class Shared, class... Args>
cudaError_t launch(void (*kernel)(Args...), const PlanLayout& layout, cudaStream_t stream,
                   const Args&... args) {
  // Every time: it holds for one device, and a process may have several.
  const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  static_cast<int>(sizeof(Shared)));
  if (raised != cudaSuccess) return raised;
  kernel<<<static_cast<unsigned>(layout.parts * layout.tiles), kThreads, sizeof(Shared), stream>>>(args...);
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

// Boxes of 64 rows.
cudaError_t encode_rows(const void* base, MapType type, std::int64_t rows, int columns,
                        std::int64_t stride_bytes, int box_columns, MapSwizzle swizzle, CUtensorMap& map) {
  return encode_tensor_map(
      matrix_map(base, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns),
                 static_cast<std::uint64_t>(stride_bytes), kPage, static_cast<std::uint32_t>(box_columns),
                 swizzle),
      &map);
}

cudaError_t encode_maps(const MlaDecodeArgs& a, Maps& maps) {
  const std::int64_t rows = std::int64_t{a.shape.tokens} * a.shape.heads;
  const auto encode = [](const void* base, std::int64_t n, int columns, std::int64_t stride,
                         CUtensorMap& map) {
    return encode_rows(base, MapType::bf16, n, columns, stride * 2, 64, MapSwizzle::b128, map);
  };
  cudaError_t e = encode(a.q_latent, rows, kLatent, a.q_latent_stride, maps.q_latent);
  if (e == cudaSuccess) e = encode(a.q_rope, rows, kRope, a.q_rope_stride, maps.q_rope);
  if (e == cudaSuccess) e = encode(a.cache, a.blocks * kPage, kLatent + kRope, kLatent + kRope, maps.cache);
  return e;
}

cudaError_t encode_maps(const MlaDecodeArgs& a, Fp8Maps& maps) {
  static_assert(kMlaQueryRow == kFp8Token);
  const auto encode = [&](const void* base, std::int64_t rows, CUtensorMap& codes, CUtensorMap& rope) {
    const cudaError_t e =
        encode_rows(base, MapType::u8, rows, kFp8Token, kFp8Token, kQuarter, MapSwizzle::b128, codes);
    if (e != cudaSuccess) return e;
    return encode_rows(base, MapType::bf16, rows, kFp8Token / 2, kFp8Token, kRope, MapSwizzle::b128, rope);
  };
  const std::int64_t rows = std::int64_t{a.shape.tokens} * a.shape.heads;
  const cudaError_t e = encode(a.cache, a.blocks * kPage, maps.codes, maps.rope);
  return e == cudaSuccess ? encode(a.q_rows, rows, maps.q_codes, maps.q_rope) : e;
}

}  // namespace
}  // namespace mla

std::size_t mla_decode_workspace_bytes(const MlaDecodeShape& s) {
  MlaDecodeShape narrow = s;
  narrow.max_query_tokens = 0;
  return mla::partial_rows(mla::plan_layout(narrow)) * (mla::kLatent + 1) * sizeof(float);
}

cudaError_t mla_query_rows(const MlaQueryRowsArgs& a, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((a.rows + mla::kQueryWarps - 1) / mla::kQueryWarps);
  return launch(mla::query_kernel, dim3(blocks), dim3(mla::kQueryWarps * 32), 0, stream, a);
}

cudaError_t mla_decode(const MlaDecodeArgs& a, cudaStream_t stream) {
  using namespace mla;
  if (a.shape.heads < 1 || a.shape.heads > kMlaDecodeMaxHeads || a.shape.multiprocessors < 2 ||
      a.shape.multiprocessors > kMlaDecodeMaxMultiprocessors)
    return cudaErrorInvalidValue;
  if (a.shape.tokens == 0 || a.shape.seqs == 0) return cudaSuccess;
  Params p{};
  p.layout = plan_layout(a.shape);
  p.plan = static_cast<const unsigned char*>(a.plan);
  p.block_table = a.block_table;
  p.block_table_stride = a.block_table_stride;
  p.tree_mask = a.tree_mask;
  p.out = static_cast<std::uint16_t*>(a.out);
  p.out_stride = a.out_stride;
  p.lse = a.lse;
  p.partials.out = static_cast<float*>(a.workspace);
  p.partials.lse = p.partials.out + partial_rows(p.layout) * kLatent;
  p.scale_log2 = a.scale * 1.4426950408889634f;
  p.latent_scale = a.latent_scale;
  p.q_scale = a.q_scale;
  p.q_rows = std::int64_t{a.shape.tokens} * a.shape.heads;
  p.heads = a.shape.heads;

  cudaError_t e;
  if (a.cache_type == MlaCache::fp8) {
    Fp8Maps maps{};
    e = encode_maps(a, maps);
    if (e == cudaSuccess) e = launch<Fp8SharedMemory>(decode_fp8_kernel, p.layout, stream, p, maps);
  } else {
    Maps maps{};
    e = encode_maps(a, maps);
    if (e == cudaSuccess) e = launch<SharedMemory>(decode_kernel, p.layout, stream, p, maps);
  }
  if (e != cudaSuccess || a.shape.split == MlaSplit::never) return e;
  return launch_combine(p, a.shape.heads * a.shape.max_query_tokens, stream);
}

}  // namespace trireme::cuda
