// The kernel: a CTA walks its units, one 64-token block of keys and values at a time. Warps 0 to 3 have 16 of
// the keys each, for 16 rows of queries; with more rows, the next four warps take the next 16 over the same
// keys. The warps that share keys copy them together some blocks ahead, and each keeps its own softmax state;
// all meet only at the end of an item.
#pragma once
#include "backends/cuda/prim/launch.h"
#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/warp_mma.cuh"
#include "backends/cuda/sm90/gqa_decode/schedule.cuh"

namespace trireme::cuda::gqa {

constexpr int kPage = 64, kParts = 4, kPartKeys = kPage / kParts;
constexpr float kLog2E = 1.4426950408889634f;

template <int kDim, int kTiles>
struct Config {
  static constexpr int kRows = 16 * kTiles, kWarps = kParts * kTiles, kThreads = 32 * kWarps;
  static constexpr int kStages = kTiles == 1 ? 3 : 5;  // with more rows one CTA fills a multiprocessor
  static constexpr int kChunks = kDim / 8;             // 16 bytes each
  // Rows of a power of two of chunks are swizzled; others are padded to an odd number, which also keeps the
  // eight rows of a matrix fragment in different banks.
  static constexpr bool kSwizzled = (kChunks & (kChunks - 1)) == 0;
  static constexpr int kRowBytes = (kSwizzled ? kChunks : kChunks | 1) * 16;
  static constexpr int kPartStageBytes = 2 * kPartKeys * kRowBytes;  // keys, then values
  static constexpr int kStageBytes = kParts * kPartStageBytes;
  static constexpr int kMergeStride = kDim + 8;  // floats
  static constexpr int kMergeBytes = kRows * kMergeStride * 4;
  static constexpr int kQueryBytes = kRows * kRowBytes;
  static constexpr int kSharedBytes =  // queries and the merge take turns; then the state of each part's rows
      kStages * kStageBytes + (kMergeBytes > kQueryBytes ? kMergeBytes : kQueryBytes) +
      2 * kParts * kRows * 4;
  // CTAs a multiprocessor: what shared memory holds, with a reserve of 2 KB each for the sequences' prefix.
  static constexpr int kFit = 227 * 1024 / (kSharedBytes + 2048);
  static constexpr int kFitThreads = 512 / kThreads;  // 128 registers a thread
  static constexpr int kCtas = kFit < 1 ? 1 : kFit > kFitThreads ? kFitThreads : kFit;
  static_assert(kDim % 16 == 0);

  __device__ static std::uint32_t offset(int row, int chunk) {
    return static_cast<std::uint32_t>(row * kRowBytes + (kSwizzled ? chunk ^ (row & 7) : chunk) * 16);
  }
};

// What a CTA saw of an item that others share: slot 2 c of CTA c for an item that began before it, 2 c + 1
// for one that begins in it.
struct Partials {
  float* sum;     // [2 P, rows, dim], not divided by the weight
  float2* state;  // [2 P, rows]: the largest score times log2(e), the weight
  int* prefix;    // [seqs + 1]
};

template <int kDim, int kTiles>
__global__ void __launch_bounds__(Config<kDim, kTiles>::kThreads, Config<kDim, kTiles>::kCtas)
    decode(const GqaDecodeArgs a, const Partials partials) {
  using C = Config<kDim, kTiles>;
  extern __shared__ __align__(128) char shared[];
  char* const query = shared + C::kStages * C::kStageBytes;
  float* const merge = reinterpret_cast<float*>(query);
  float* const part_top = reinterpret_cast<float*>(shared + C::kSharedBytes) - 2 * kParts * C::kRows;
  float* const part_weight = part_top + kParts * C::kRows;
  int* const prefix = reinterpret_cast<int*>(shared + C::kSharedBytes);
  __shared__ int warp_sums[C::kWarps];

  const int tid = threadIdx.x, lane = tid % 32, part = tid / 32 % kParts, my_tile = tid / 32 / kParts;
  const int group = a.heads / a.kv_heads;
  const float scale = a.scale * kLog2E;
  pdl_wait();
  prefix_units<C::kWarps>(a, C::kRows, prefix, warp_sums);
  const int units = prefix[a.batch.seqs];
  if (blockIdx.x == 0)
    for (int i = tid; i <= a.batch.seqs; i += C::kThreads) partials.prefix[i] = prefix[i];
  const Shares shares(units, gridDim.x);
  const int begin = shares.first_unit(blockIdx.x), end = shares.first_unit(blockIdx.x + 1);
  if (begin == end) return;

  const auto shared_at = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const auto query_at = static_cast<std::uint32_t>(__cvta_generic_to_shared(query));
  const std::int64_t width = static_cast<std::int64_t>(a.kv_heads) * kDim;  // elements: a token's keys

  Cursor ahead;  // the unit to copy next
  ahead.seek(a, prefix, C::kRows, begin);
  Cursor now = ahead;
  int to_copy = begin;
  const auto part_of = [&](int unit) {  // where this part of a unit's keys lies
    return shared_at + static_cast<std::uint32_t>((unit - begin) % C::kStages * C::kStageBytes +
                                                  part * C::kPartStageBytes);
  };
  const auto copy_next = [&] {
    if (to_copy < end) {
      const Span& s = ahead.span;
      const int page = s.first_page + ahead.page;
      const std::int64_t block = a.batch.block_table[ahead.seq * a.batch.max_blocks + page];
      const int first_key = a.window > 0 ? max(0, s.context - s.q_len + 1 - a.window) : 0;
      const auto* keys = static_cast<const __nv_bfloat16*>(a.cache) +
                         (block * kPage + part * kPartKeys) * 2 * width + ahead.item / s.tiles * kDim;
      const std::uint32_t to = part_of(to_copy);
#pragma unroll 8
      for (int i = my_tile * 32 + lane; i < kPartKeys * C::kChunks; i += 32 * kTiles) {
        const int row = i / C::kChunks, chunk = i % C::kChunks;
        const int key = page * kPage + part * kPartKeys + row;
        const bool valid = key >= first_key && key < s.context;
        const __nv_bfloat16* from = keys + row * 2 * width + chunk * 8;
        copy16_async(to + C::offset(row, chunk), from, valid);
        copy16_async(to + kPartKeys * C::kRowBytes + C::offset(row, chunk), from + width, valid);
      }
      if (++to_copy < end) ahead.advance(a, C::kRows);
    }
    copy_commit();
  };
  for (int i = 0; i < C::kStages - 1; ++i) copy_next();

  float o[kDim / 8][4], top[2], weight[2];
  int last_key[2];
  for (int unit = begin; unit < end;) {
    // An item, or this CTA's share of it.
    const int row0 = now.item % now.span.tiles * C::kRows, head = now.item / now.span.tiles * group;
    const int rows = min(C::kRows, now.span.q_len * group - row0);
    const auto row_at = [&](int row, std::int64_t stride) {  // of the item's row, in q and out
      return (static_cast<std::int64_t>(now.span.q_begin + (row0 + row) / group) * a.heads + head +
              (row0 + row) % group) *
             stride;
    };
    for (int i = tid; i < C::kRows * C::kChunks; i += C::kThreads) {
      const int row = i / C::kChunks, chunk = i % C::kChunks;
      uint4 v = {};
      if (row < rows)
        v = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.q) + row_at(row, a.q_stride) +
                                            chunk * 8);
      *reinterpret_cast<uint4*>(query + C::offset(row, chunk)) = v;
    }
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = -INFINITY;
      weight[h] = 0;
      const int token = min((row0 + my_tile * 16 + lane / 4 + 8 * h) / group, now.span.q_len - 1);
      last_key[h] = now.span.context - now.span.q_len + token;
    }
    __syncthreads();

    const int first_page = now.page, stop_page = min(now.span.pages, now.page + end - unit);
    for (int page = first_page; page < stop_page; ++page, ++unit) {
      copy_wait<C::kStages - 2>();
      if constexpr (kTiles == 1)
        __syncwarp();
      else
        named_barrier_sync(1 + part, 32 * kTiles);
      copy_next();
      const std::uint32_t keys = part_of(unit), values = keys + kPartKeys * C::kRowBytes;
      float s[2][4] = {};
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        std::uint32_t b[4], q[4];
        load_matrix4(b, keys + C::offset((lane & 7) + (lane >> 4) * 8, 2 * k + ((lane >> 3) & 1)));
        load_matrix4(q, query_at + C::offset(my_tile * 16 + (lane & 15), 2 * k + (lane >> 4)));
        mma_bf16(s[0], q, b[0], b[1]);
        mma_bf16(s[1], q, b[2], b[3]);
      }
      if (a.window > 0 || (now.span.first_page + page + 1) * kPage > now.span.context - now.span.q_len + 1) {
        const int key0 = (now.span.first_page + page) * kPage + part * kPartKeys + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int key = key0 + i / 4 * 8 + i % 2, last = last_key[i % 4 / 2];
          if (key > last || (a.window > 0 && key <= last - a.window)) s[i / 4][i % 4] = -INFINITY;
        }
      }
      std::uint32_t p[4];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float m = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2)) * scale;
        const float new_top = fmaxf(top[h], m);
        const float base = new_top == -INFINITY ? 0 : new_top;  // no key seen yet: all weights are zero
        if (__any_sync(~0u, new_top > top[h])) {
          const float rescale = fast_exp2(top[h] - base);
          weight[h] *= rescale;
#pragma unroll
          for (int j = 0; j < kDim / 8; ++j) {
            o[j][2 * h] *= rescale;
            o[j][2 * h + 1] *= rescale;
          }
          top[h] = new_top;
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const float p0 = fast_exp2(fmaf(s[n][2 * h], scale, -base));
          const float p1 = fast_exp2(fmaf(s[n][2 * h + 1], scale, -base));
          weight[h] += p0 + p1;
          p[2 * n + h] = pack_bf16(p0, p1);
        }
      }
#pragma unroll
      for (int j = 0; j < kDim / 16; ++j) {
        std::uint32_t b[4];
        load_matrix4_transposed(b, values + C::offset(lane & 15, 2 * j + (lane >> 4)));
        mma_bf16(o[2 * j], p, b[0], b[1]);
        mma_bf16(o[2 * j + 1], p, b[2], b[3]);
      }
    }
    if (unit == end) pdl_launch();

    // The four parts' shares of the item, put together.
    const int my_row = my_tile * 16 + lane / 4;  // and my_row + 8
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      weight[h] += __shfl_xor_sync(~0u, weight[h], 1);
      weight[h] += __shfl_xor_sync(~0u, weight[h], 2);
      if (lane % 4 == 0) {
        part_top[part * C::kRows + my_row + 8 * h] = top[h];
        part_weight[part * C::kRows + my_row + 8 * h] = weight[h];
      }
    }
    __syncthreads();
    const auto top_of = [&](int row) {
      float m = part_top[row];
      for (int w = 1; w < kParts; ++w) m = fmaxf(m, part_top[w * C::kRows + row]);
      return m;
    };
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float all = top_of(my_row + 8 * h);
      factor[h] = all == -INFINITY ? 0 : fast_exp2(top[h] - all);
    }
    for (int w = 0; w < kParts; ++w) {
      if (w == part) {
#pragma unroll
        for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            auto* at =
                reinterpret_cast<float2*>(merge + (my_row + 8 * h) * C::kMergeStride + j * 8 + lane % 4 * 2);
            float2 v = {o[j][2 * h] * factor[h], o[j][2 * h + 1] * factor[h]};
            if (w > 0) v = {v.x + at->x, v.y + at->y};
            *at = v;
          }
      }
      __syncthreads();
    }
    const bool whole = first_page == 0 && stop_page == now.span.pages;
    const std::int64_t slot = 2 * static_cast<std::int64_t>(blockIdx.x) + (first_page == 0 ? 1 : 0);
    for (int i = tid; i < rows * (kDim / 4); i += C::kThreads) {
      const int row = i / (kDim / 4), col = i % (kDim / 4) * 4;
      const float4 v = *reinterpret_cast<const float4*>(merge + row * C::kMergeStride + col);
      const float m = top_of(row);
      float sum = 0;
      for (int w = 0; w < kParts; ++w)
        sum += m == -INFINITY ? 0
                              : part_weight[w * C::kRows + row] * fast_exp2(part_top[w * C::kRows + row] - m);
      if (whole) {
        const float r = 1 / sum;
        const uint2 packed = {pack_bf16(v.x * r, v.y * r), pack_bf16(v.z * r, v.w * r)};
        *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(a.out) + row_at(row, a.out_stride) + col) =
            packed;
      } else {
        *reinterpret_cast<float4*>(partials.sum + (slot * C::kRows + row) * kDim + col) = v;
        if (col == 0) partials.state[slot * C::kRows + row] = {m, sum};
      }
    }
    __syncthreads();  // the merge's memory is the queries' again
    if (unit < end) {
      now.page = stop_page - 1;
      now.advance(a, C::kRows);
    }
  }
}

}  // namespace trireme::cuda::gqa
