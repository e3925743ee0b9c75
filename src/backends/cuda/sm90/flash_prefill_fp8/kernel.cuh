// Persistent CTAs of a producer warp and two warpgroups of 64 queries each, over the list of work of
// sm90/flash_prefill. What the tensor core adds keeps few bits, so the products of one tile of keys are added
// there and their sum to others in float32.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/prim/wgmma.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/prim/wgmma_n128.cuh"
#include "backends/cuda/sm90/flash_prefill/softmax.cuh"
#include "backends/cuda/sm90/flash_prefill/store.cuh"
#include "backends/cuda/sm90/flash_prefill/work.cuh"
#include "backends/cuda/sm90/flash_prefill_fp8/tiles.cuh"

namespace trireme::cuda::flash_fp8 {

using flash::KeyRange;
using flash::kKeys;
using flash::kQueries;
using flash::Order;
using flash::Rows;
using flash::Work;
static_assert(kKeys == kTile);

constexpr int kStages = 2, kThreads = 384;
constexpr int kChunk = 64;  // columns of BF16 in a swizzled row
constexpr int kChunks = (kWithoutPosition + kRope) / kChunk;

struct Params {
  FlashBatch seqs;
  const std::int32_t* k_start = nullptr;
  Room room;
  flash::Out out;
  float scale_log2 = 0, k_scale = 1, v_scale = 1;
  Order order;
  int q_stride = 0;
};

// A tile of queries: as it comes, then, in place of the first 64 columns, the codes of the 128 without
// position.
using Queries = __nv_bfloat16[kChunks][kQueries][kChunk];

struct Stage {
  unsigned char keys[kPart], values[kPart];
  __nv_bfloat16 rope[kKeys][kChunk];
};
struct Smem {
  alignas(1024) Queries q[2];
  alignas(1024) Stage stage[kStages];
  Work work[2];
  Mbarrier work_full[2], work_empty[2];
  Mbarrier q_full[2], q_empty[2], k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};
static_assert(sizeof(Smem) <= 227 * 1024);

// As the producer of flash_prefill, but a tile of queries comes while the last one is still multiplied.
__device__ inline void produce(Smem& smem, const Params& p, const CUtensorMap& q, const CUtensorMap& k_rope) {
  int step = 0, loaded = 0, entry = static_cast<int>(blockIdx.x);
  for (int round = 0;; ++round) {
    const Work w = flash::find_work(p.seqs, p.order, entry);
    if (threadIdx.x == 0) {
      mbarrier_wait(&smem.work_empty[round % 2], (round / 2 + 1) % 2);
      smem.work[round % 2] = w;
      mbarrier_arrive(&smem.work_full[round % 2]);
      if (w.seq >= 0 && w.context > 0) {
        const int buffer = loaded % 2;
        mbarrier_wait(&smem.q_empty[buffer], (loaded++ / 2 + 1) % 2);
        mbarrier_arrive_expect_tx(&smem.q_full[buffer], sizeof(Queries));
#pragma unroll
        for (int c = 0; c < kChunks; ++c)
          tma_load_2d(&smem.q[buffer][c], &q, &smem.q_full[buffer], w.head * p.q_stride + c * kChunk,
                      w.q_row);
        const KeyRange range = flash::keys_of(w, 0);
        const int start = p.k_start[w.seq];
        const std::int64_t first = first_tile(start, w.seq);
        for (int tile = range.last; tile >= range.first; --tile, ++step) {
          const int stage = step % kStages, parity = (step / kStages + 1) % 2;
          Stage& to = smem.stage[stage];
          const unsigned char* const keys = p.room.keys(first + tile, w.head);
          mbarrier_wait(&smem.k_empty[stage], parity);
          mbarrier_arrive_expect_tx(&smem.k_full[stage], sizeof(to.keys) + sizeof(to.rope));
          bulk_load(to.keys, keys, kPart, &smem.k_full[stage]);
          tma_load_2d(to.rope, &k_rope, &smem.k_full[stage], 0, start + tile * kKeys);
          mbarrier_wait(&smem.v_empty[stage], parity);
          mbarrier_arrive_expect_tx(&smem.v_full[stage], kPart);
          bulk_load(to.values, keys + kPart, kPart, &smem.v_full[stage]);
        }
      }
    }
    if (w.seq < 0) return;
    if (threadIdx.x == 0) entry = static_cast<int>(gridDim.x + atomicAdd(p.seqs.counter, 1));
    entry = __shfl_sync(~0u, entry, 0);
  }
}

template <int N>
__device__ __forceinline__ float quad_largest(const uint4* x) {
  std::uint32_t pair = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const std::uint32_t w[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
    for (int c = 0; c < 4; ++c) pair = smxx::max_pair(pair, w[c] & 0x7FFF7FFFu);
  }
  pair = smxx::max_pair(pair, __shfl_xor_sync(~0u, pair, 1));
  pair = smxx::max_pair(pair, __shfl_xor_sync(~0u, pair, 2));
  return fmaxf(smxx::low(pair), smxx::high(pair));
}

// Rows `row` and `row` + 8 of q, by a quad: the columns without position become codes times a scale of the
// row; rope columns are divided by it and by the keys', so that one sum takes both. Gives the scales of the
// sums.
__device__ __forceinline__ void quantise(Queries& q, int row, int t, float k_scale, float (&scale)[2]) {
  const auto at = [&](int box, int r, int chunk) {
    const int line = row + 8 * r;
    return reinterpret_cast<char*>(&q[box][line]) + ((chunk ^ (line % 8)) << 4);
  };
  uint4 x[2][6];  // of 24 times 8 columns, every fourth
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int i = 0; i < 6; ++i) x[r][i] = *reinterpret_cast<const uint4*>(at(i / 2, r, i % 2 * 4 + t));
  __syncwarp();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    // e4m3 has 2^15 of magnitudes: codes that rope columns outdo by more would make no difference.
    const float own = smxx::e4m3_power(fmaxf(quad_largest<4>(x[r]), quad_largest<2>(x[r] + 4) * 0x1p-16f));
    const float by = 1 / own, rope_by = by / k_scale;
    scale[r] = own * k_scale;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      *reinterpret_cast<uint2*>(at(0, r, 2 * i + t / 2) + t % 2 * 8) =
          make_uint2(codes4(x[r][i].x, x[r][i].y, by), codes4(x[r][i].z, x[r][i].w, by));
#pragma unroll
    for (int i = 4; i < 6; ++i) {
      float f[8];
      smxx::unpack8(x[r][i], f);
#pragma unroll
      for (float& y : f) y *= rope_by;
      *reinterpret_cast<uint4*>(at(2, r, i % 2 * 4 + t)) = smxx::pack8(f);
    }
  }
}

// Scores of this warpgroup's 64 queries; in flight on return.
__device__ __forceinline__ void issue_scores(float (&s)[kKeys / 2], const Queries& q, const Stage& stage,
                                             int group) {
  const std::uint64_t codes = wgmma_desc_k_major(&q[0][group * 64]),
                      rope = wgmma_desc_k_major(&q[kChunks - 1][group * 64]),
                      keys = wgmma_desc_k_major(stage.keys), key_rope = wgmma_desc_k_major(stage.rope);
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_ss_e4m3<kKeys>(s, codes + 2 * i, keys + 2 * i, i > 0);
#pragma unroll
  for (int i = 0; i < 4; ++i) flash::wgmma_n128_ss_nt(s, rope + 2 * i, key_rope + 2 * i, true);
  wgmma_commit();
}

__device__ __forceinline__ void issue_values(float (&sum)[kValue / 2],
                                             const std::uint32_t (&weights)[kKeys / 8], const Stage& stage) {
  const std::uint64_t values = wgmma_desc_k_major(stage.values);
#pragma unroll
  for (int i = 0; i < 4; ++i) wgmma_rs_e4m3(sum, weights + 4 * i, values + 2 * i, i > 0);
  wgmma_commit();
}

// Weights up to 1 as e4m3 of 256 times them: float16 has the exponent where e4m3 has it if it is 2^8 times
// smaller, and an addition rounds.
constexpr float kWeightScale = 256;
__device__ __forceinline__ std::uint32_t codes_of(float x, float y) {
  const __half2 pair = __floats2half2_rn(x, y);
  return 2 * *reinterpret_cast<const std::uint32_t*>(&pair) + 0x00800080u;  // in the upper bytes
}
__device__ __forceinline__ void pack_weights(const float (&s)[kKeys / 2],
                                             std::uint32_t (&weights)[kKeys / 8]) {
#pragma unroll
  for (int i = 0; i < kKeys / 8; ++i) {
    const int j = i / 2 * 2, r = i % 2;  // two blocks of 8 keys from j on
    weights[i] = __byte_perm(codes_of(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]),
                             codes_of(s[4 * j + 4 + 2 * r], s[4 * j + 4 + 2 * r + 1]), 0x7531);
  }
}

// One tile of queries; `step` counts the tiles of keys so far.
__device__ __forceinline__ void multiply(Smem& smem, const Params& p, const Work& w, int group, int count,
                                         int& step) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  const int row = group * 64 + thread / 32 * 16 + lane / 4;  // and row + 8: this thread's queries in the tile
  const int old = w.context - w.q_len, group_first = old + w.first + group * 64;
  const KeyRange range = flash::keys_of(w, 0);
  Rows rows;
  rows.init(min(w.context - 1, old + w.first + row), min(w.context - 1, old + w.first + row + 8));
  const auto parity = [](int at) { return static_cast<std::uint32_t>(at / kStages % 2); };

  Queries& q = smem.q[count % 2];
  float scale_log2[2];
  mbarrier_wait(&smem.q_full[count % 2], static_cast<std::uint32_t>(count / 2 % 2));
  quantise(q, row, lane % 4, p.k_scale, scale_log2);
  scale_log2[0] *= p.scale_log2;
  scale_log2[1] *= p.scale_log2;
  fence_proxy_async();
  named_barrier_sync(1 + group, 128);

  const auto softmax = [&](float(&s)[kKeys / 2], int tile, float(&rescale)[2]) {
    if (tile * kKeys + kKeys - 1 > min(group_first, w.context - 1))
      rows.mask(s, tile * kKeys + lane % 4 * 2, 0);
    rows.update(s, scale_log2, rescale);
  };
  const auto add = [&](float(&o)[kValue / 2], const float(&sum)[kValue / 2], const float(&rescale)[2]) {
#pragma unroll
    for (int i = 0; i < kValue / 2; ++i) o[i] = fmaf(o[i], rescale[i / 2 % 2], sum[i]);
  };

  float o[kValue / 2] = {}, rescale[2];
  std::uint32_t weights[kKeys / 8];
  {
    float s[kKeys / 2];
    mbarrier_wait(&smem.k_full[step % kStages], parity(step));
    wgmma_fence();
    issue_scores(s, q, smem.stage[step % kStages], group);
    wgmma_wait<0>();
    wgmma_hold(s);
    if (lane == 0) mbarrier_arrive(&smem.k_empty[step % kStages]);
    softmax(s, range.last, rescale);
    pack_weights(s, weights);
  }
  for (int tile = range.last - 1; tile >= range.first; --tile, ++step) {
    const int stage = step % kStages, next = (step + 1) % kStages;
    float s[kKeys / 2], sum[kValue / 2], next_rescale[2];
    mbarrier_wait(&smem.k_full[next], parity(step + 1));
    named_barrier_sync(3 + group, 256);
    wgmma_hold(weights);
    wgmma_fence();
    issue_scores(s, q, smem.stage[next], group);
    mbarrier_wait(&smem.v_full[stage], parity(step));
    wgmma_fence();  // the wait may have been a loop
    issue_values(sum, weights, smem.stage[stage]);
    named_barrier_arrive(4 - group, 256);
    wgmma_wait<1>();
    wgmma_hold(s);
    if (lane == 0) mbarrier_arrive(&smem.k_empty[next]);
    softmax(s, tile, next_rescale);
    wgmma_wait<0>();
    wgmma_hold(sum);
    if (lane == 0) mbarrier_arrive(&smem.v_empty[stage]);
    add(o, sum, rescale);
    rescale[0] = next_rescale[0];
    rescale[1] = next_rescale[1];
    pack_weights(s, weights);
  }
  mbarrier_arrive(&smem.q_empty[count % 2]);  // every thread, behind what it wrote there
  float sum[kValue / 2];
  mbarrier_wait(&smem.v_full[step % kStages], parity(step));
  wgmma_hold(weights);
  wgmma_fence();
  issue_values(sum, weights, smem.stage[step % kStages]);
  wgmma_wait<0>();
  wgmma_hold(sum);
  if (lane == 0) mbarrier_arrive(&smem.v_empty[step % kStages]);
  ++step;
  add(o, sum, rescale);
  float inverse[2];
  rows.finish(inverse);
  inverse[0] *= p.v_scale * (1 / kWeightScale);
  inverse[1] *= p.v_scale * (1 / kWeightScale);
  flash::scale_rows(o, inverse);
  flash::store_rows(p.out, w, o, row);
}

__device__ inline void consume(Smem& smem, const Params& p, int group) {
  int step = 0, tiles = 0;
  if (group == 1) named_barrier_arrive(3, 256);
  for (int round = 0;; ++round) {
    mbarrier_wait(&smem.work_full[round % 2], static_cast<std::uint32_t>(round / 2 % 2));
    const Work w = smem.work[round % 2];
    mbarrier_arrive(&smem.work_empty[round % 2]);  // every thread, behind its own read
    if (w.seq < 0) return;
    if (w.context > 0)
      multiply(smem, p, w, group, tiles++, step);
    else
      flash::write_zeros<kValue>(p.out, w, group);
  }
}

__global__ void __launch_bounds__(kThreads, 1) prefill(const Params p, const __grid_constant__ CUtensorMap q,
                                                       const __grid_constant__ CUtensorMap k_rope) {
  extern __shared__ __align__(1024) char memory[];
  Smem& smem = *reinterpret_cast<Smem*>(memory);
  if (threadIdx.x == 0) {
    constexpr std::uint32_t kWarps = 8;  // that multiply; at places of keys and values a lane of each arrives
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(&smem.q_full[i], 1);
      mbarrier_init(&smem.q_empty[i], 32 * kWarps);
      mbarrier_init(&smem.work_full[i], 1);
      mbarrier_init(&smem.work_empty[i], 32 * kWarps);
    }
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&smem.k_full[i], 1);
      mbarrier_init(&smem.v_full[i], 1);
      mbarrier_init(&smem.k_empty[i], kWarps);
      mbarrier_init(&smem.v_empty[i], kWarps);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  // Of the 168 registers a thread that the CTA was launched with: 128 x 24 + 256 x 240 = 384 x 168.
  if (threadIdx.x < 128) {
    register_limit_decrease<24>();
    if (threadIdx.x < 32) produce(smem, p, q, k_rope);
  } else {
    register_limit_increase<240>();
    consume(smem, p, static_cast<int>(threadIdx.x / 128 - 1));
  }
}

}  // namespace trireme::cuda::flash_fp8
