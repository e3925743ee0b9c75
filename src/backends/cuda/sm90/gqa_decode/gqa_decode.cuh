// The kernel: a CTA of four warps walks its units; each warp has 16 of a block's 64 keys, copies them into
// its own part of shared memory some blocks ahead, and keeps its own softmax state. Warps meet only at the
// end of an item.
#pragma once
#include "backends/cuda/sm90/gqa_decode/schedule.cuh"
#include "backends/cuda/sm90/gqa_decode/warp_mma.cuh"

namespace trireme::cuda::gqa {

constexpr int kPage = 64, kWarps = 4, kThreads = 128, kWarpKeys = kPage / kWarps;
constexpr float kLog2E = 1.4426950408889634f;

template <int kDim, int kTiles>
struct Config {
  static constexpr int kRows = 16 * kTiles;
  static constexpr int kStages = 3;
  static constexpr int kChunks = kDim / 8;  // 16 bytes each
  // Rows of a power of two of chunks are swizzled; others are padded to an odd number, which also keeps the
  // eight rows of a matrix fragment in different banks.
  static constexpr bool kSwizzled = (kChunks & (kChunks - 1)) == 0;
  static constexpr int kRowBytes = (kSwizzled ? kChunks : kChunks | 1) * 16;
  static constexpr int kWarpStageBytes = 2 * kWarpKeys * kRowBytes;  // keys, then values
  static constexpr int kStageBytes = kWarps * kWarpStageBytes;
  static constexpr int kMergeStride = kDim + 8;  // floats
  static constexpr int kMergeBytes = kRows * kMergeStride * 4;
  static constexpr int kQueryBytes = kRows * kRowBytes;
  static constexpr int kSharedBytes =  // queries and the merge take turns; then the state of each warp's rows
      kStages * kStageBytes + (kMergeBytes > kQueryBytes ? kMergeBytes : kQueryBytes) +
      2 * kWarps * kRows * 4;
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
__global__ void __launch_bounds__(kThreads) decode(const GqaDecodeArgs a, const Partials partials) {
  using C = Config<kDim, kTiles>;
  extern __shared__ __align__(128) char shared[];
  char* const query = shared + C::kStages * C::kStageBytes;
  float* const merge = reinterpret_cast<float*>(query);
  float* const warp_top = reinterpret_cast<float*>(shared + C::kSharedBytes) - 2 * kWarps * C::kRows;
  float* const warp_weight = warp_top + kWarps * C::kRows;
  int* const prefix = reinterpret_cast<int*>(shared + C::kSharedBytes);
  __shared__ int warp_sums[kWarps];

  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int group = a.heads / a.kv_heads;
  const float scale = a.scale * kLog2E;
  prefix_units(a, C::kRows, prefix, warp_sums);
  const int units = prefix[a.batch.seqs];
  if (blockIdx.x == 0)
    for (int i = tid; i <= a.batch.seqs; i += kThreads) partials.prefix[i] = prefix[i];
  const int begin = first_unit(blockIdx.x, units, gridDim.x),
            end = first_unit(blockIdx.x + 1, units, gridDim.x);
  if (begin == end) return;

  const auto shared_at = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const auto query_at = static_cast<std::uint32_t>(__cvta_generic_to_shared(query));
  const auto* cache = static_cast<const __nv_bfloat16*>(a.cache);
  const std::int64_t part = static_cast<std::int64_t>(a.kv_heads) * kDim;  // elements: keys of a token

  Cursor ahead;  // the unit to copy next
  ahead.seek(a, prefix, C::kRows, begin);
  Cursor now = ahead;
  int to_copy = begin;
  const auto copy_next = [&] {
    if (to_copy < end) {
      const Span& s = ahead.span;
      const int page = s.first_page + ahead.page;
      const std::int64_t block = a.batch.block_table[ahead.seq * a.batch.max_blocks + page];
      const int first_key = a.window > 0 ? max(0, s.context - s.q_len + 1 - a.window) : 0;
      const __nv_bfloat16* keys =
          cache + (block * kPage + warp * kWarpKeys) * 2 * part + ahead.item / s.tiles * kDim;
      const std::uint32_t at =
          shared_at + static_cast<std::uint32_t>((to_copy - begin) % C::kStages * C::kStageBytes +
                                                 warp * C::kWarpStageBytes);
#pragma unroll
      for (int i = 0; i < kWarpKeys * C::kChunks / 32; ++i) {
        const int row = (i * 32 + lane) / C::kChunks, chunk = (i * 32 + lane) % C::kChunks;
        const int key = page * kPage + warp * kWarpKeys + row;
        const bool valid = key >= first_key && key < s.context;
        const __nv_bfloat16* from = keys + row * 2 * part + chunk * 8;
        copy16_async(at + C::offset(row, chunk), from, valid);
        copy16_async(at + kWarpKeys * C::kRowBytes + C::offset(row, chunk), from + part, valid);
      }
      if (++to_copy < end) ahead.advance(a, C::kRows);
    }
    copy_commit();
  };
  for (int i = 0; i < C::kStages - 1; ++i) copy_next();

  float o[kTiles][kDim / 8][4];
  float top[kTiles][2], weight[kTiles][2];
  int last_key[kTiles][2];
  for (int unit = begin; unit < end;) {
    // An item, or this CTA's share of it.
    const int tile = now.item % now.span.tiles, head = now.item / now.span.tiles * group;
    const int row0 = tile * C::kRows, rows = min(C::kRows, now.span.q_len * group - row0);
    const auto row_at = [&](int row, std::int64_t stride) {  // of the tile's row, in q and out
      return (static_cast<std::int64_t>(now.span.q_begin + (row0 + row) / group) * a.heads + head +
              (row0 + row) % group) *
             stride;
    };
    for (int i = tid; i < C::kRows * C::kChunks; i += kThreads) {
      const int row = i / C::kChunks, chunk = i % C::kChunks;
      uint4 v = {};
      if (row < rows)
        v = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.q) + row_at(row, a.q_stride) +
                                            chunk * 8);
      *reinterpret_cast<uint4*>(query + C::offset(row, chunk)) = v;
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) o[t][j][0] = o[t][j][1] = o[t][j][2] = o[t][j][3] = 0;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        top[t][h] = -INFINITY;
        weight[t][h] = 0;
        const int token = min((row0 + t * 16 + lane / 4 + 8 * h) / group, now.span.q_len - 1);
        last_key[t][h] = now.span.context - now.span.q_len + token;
      }
    }
    __syncthreads();

    const int first_page = now.page, stop_page = min(now.span.pages, now.page + end - unit);
    for (int page = first_page; page < stop_page; ++page, ++unit) {
      copy_wait<C::kStages - 2>();
      __syncwarp();
      copy_next();
      const std::uint32_t keys =
          shared_at + static_cast<std::uint32_t>((unit - begin) % C::kStages * C::kStageBytes +
                                                 warp * C::kWarpStageBytes);
      const std::uint32_t values = keys + kWarpKeys * C::kRowBytes;
      float s[kTiles][2][4] = {};
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        std::uint32_t b[4];
        load_matrix4(b, keys + C::offset((lane & 7) + (lane >> 4) * 8, 2 * k + ((lane >> 3) & 1)));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          std::uint32_t q[4];
          load_matrix4(q, query_at + C::offset(t * 16 + (lane & 15), 2 * k + (lane >> 4)));
          mma_bf16(s[t][0], q, b[0], b[1]);
          mma_bf16(s[t][1], q, b[2], b[3]);
        }
      }
      const int key0 = (now.span.first_page + page) * kPage + warp * kWarpKeys + lane % 4 * 2;
      if (a.window > 0 || (now.span.first_page + page + 1) * kPage > now.span.context - now.span.q_len + 1) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const int key = key0 + i / 4 * 8 + i % 2, last = last_key[t][i % 4 / 2];
            if (key > last || (a.window > 0 && key <= last - a.window)) s[t][i / 4][i % 4] = -INFINITY;
          }
      }
      std::uint32_t p[kTiles][4];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float m =
              fmaxf(fmaxf(s[t][0][2 * h], s[t][0][2 * h + 1]), fmaxf(s[t][1][2 * h], s[t][1][2 * h + 1]));
          m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
          m = fmaxf(m, __shfl_xor_sync(~0u, m, 2)) * scale;
          const float new_top = fmaxf(top[t][h], m);
          const float base = new_top == -INFINITY ? 0 : new_top;  // no key seen yet: all weights are zero
          if (__any_sync(~0u, new_top > top[t][h])) {
            const float rescale = fast_exp2(top[t][h] - base);
            weight[t][h] *= rescale;
#pragma unroll
            for (int j = 0; j < kDim / 8; ++j) {
              o[t][j][2 * h] *= rescale;
              o[t][j][2 * h + 1] *= rescale;
            }
            top[t][h] = new_top;
          }
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const float p0 = fast_exp2(fmaf(s[t][n][2 * h], scale, -base));
            const float p1 = fast_exp2(fmaf(s[t][n][2 * h + 1], scale, -base));
            weight[t][h] += p0 + p1;
            p[t][2 * n + h] = pack_bf16(p0, p1);
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kDim / 16; ++j) {
        std::uint32_t b[4];
        load_matrix4_transposed(b, values + C::offset(lane & 15, 2 * j + (lane >> 4)));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          mma_bf16(o[t][2 * j], p[t], b[0], b[1]);
          mma_bf16(o[t][2 * j + 1], p[t], b[2], b[3]);
        }
      }
    }

    // The four warps' shares of the item, put together.
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        weight[t][h] += __shfl_xor_sync(~0u, weight[t][h], 1);
        weight[t][h] += __shfl_xor_sync(~0u, weight[t][h], 2);
        const int row = t * 16 + lane / 4 + 8 * h;
        if (lane % 4 == 0) {
          warp_top[warp * C::kRows + row] = top[t][h];
          warp_weight[warp * C::kRows + row] = weight[t][h];
        }
      }
    __syncthreads();
    const auto top_of = [&](int row) {
      float m = warp_top[row];
      for (int w = 1; w < kWarps; ++w) m = fmaxf(m, warp_top[w * C::kRows + row]);
      return m;
    };
    float factor[kTiles][2];
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float all = top_of(t * 16 + lane / 4 + 8 * h);
        factor[t][h] = all == -INFINITY ? 0 : fast_exp2(top[t][h] - all);
      }
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
          for (int j = 0; j < kDim / 8; ++j)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              auto* at = reinterpret_cast<float2*>(merge + (t * 16 + lane / 4 + 8 * h) * C::kMergeStride +
                                                   j * 8 + lane % 4 * 2);
              float2 v = {o[t][j][2 * h] * factor[t][h], o[t][j][2 * h + 1] * factor[t][h]};
              if (w > 0) v = {v.x + at->x, v.y + at->y};
              *at = v;
            }
      }
      __syncthreads();
    }
    const bool whole = first_page == 0 && stop_page == now.span.pages;
    const std::int64_t slot = 2 * static_cast<std::int64_t>(blockIdx.x) + (first_page == 0 ? 1 : 0);
    for (int i = tid; i < rows * (kDim / 4); i += kThreads) {
      const int row = i / (kDim / 4), col = i % (kDim / 4) * 4;
      const float4 v = *reinterpret_cast<const float4*>(merge + row * C::kMergeStride + col);
      const float m = top_of(row);
      float sum = 0;
      for (int w = 0; w < kWarps; ++w)
        sum += m == -INFINITY ? 0
                              : warp_weight[w * C::kRows + row] * fast_exp2(warp_top[w * C::kRows + row] - m);
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

// One warp a row of out: merges what several CTAs saw, and writes zeros for padding sequences.
template <int kDim, int kTiles>
__global__ void __launch_bounds__(kThreads)
    combine(const GqaDecodeArgs a, const Partials partials, int ctas) {
  constexpr int kRows = Config<kDim, kTiles>::kRows, kEach = (kDim + 31) / 32;
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.tokens * a.heads) return;
  const int token = row / a.heads, head = row % a.heads, group = a.heads / a.kv_heads;
  if (token >= a.batch.q_start[a.batch.seqs]) return;
  int low = 0, high = a.batch.seqs;
  while (high - low > 1) {
    const int mid = (low + high) / 2;
    (a.batch.q_start[mid] <= token ? low : high) = mid;
  }
  auto* out = static_cast<__nv_bfloat16*>(a.out) + row * a.out_stride;
  const Span s = span_of(a, low, kRows);
  if (s.pages == 0) {
    if (s.context <= 0)
      for (int d = lane; d < kDim; d += 32) out[d] = __float2bfloat16(0.0f);
    return;
  }
  const int units = partials.prefix[a.batch.seqs], r = (token - s.q_begin) * group + head % group;
  const int unit = partials.prefix[low] + (head / group * s.tiles + r / kRows) * s.pages;
  const int first = owner(unit, units, ctas), last = owner(unit + s.pages - 1, units, ctas);
  if (first == last) return;
  const auto at = [&](int cta) {  // the row of its share; empty CTAs have none
    return (2 * static_cast<std::int64_t>(cta) + (cta == first ? 1 : 0)) * kRows + r % kRows;
  };
  const auto empty = [&](int cta) {
    return first_unit(cta, units, ctas) == first_unit(cta + 1, units, ctas);
  };
  float m = -INFINITY;
  for (int c = first + lane; c <= last; c += 32)
    if (!empty(c)) m = fmaxf(m, partials.state[at(c)].x);
  for (int i = 16; i > 0; i /= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, i));
  float sum[kEach] = {}, weight = 0;
#pragma unroll 4
  for (int c = first; c <= last; ++c) {
    if (empty(c)) continue;
    const float2 state = partials.state[at(c)];
    const float f = fast_exp2(state.x - m);
    weight += f * state.y;
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (lane + 32 * j < kDim) sum[j] += f * partials.sum[at(c) * kDim + lane + 32 * j];
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (lane + 32 * j < kDim) out[lane + 32 * j] = __float2bfloat16(sum[j] / weight);
}

// How many CTAs share the units: as many as the chip holds at once, fewer where the bounds leave them
// nothing.
template <int kDim, int kTiles>
int ctas_for(const GqaDecodeArgs& a) {
  using C = Config<kDim, kTiles>;
  const int each = C::kSharedBytes + 4 * (a.batch.seqs + 1) + 1280 <= 114 * 1024 ? 2 : 1;
  const std::int64_t tiles = (std::int64_t{a.max_tokens} * (a.heads / a.kv_heads) + C::kRows - 1) / C::kRows;
  const std::int64_t units = a.batch.seqs * ((a.max_context + 63) / 64) * a.kv_heads * tiles;
  return static_cast<int>(units < each * a.sms ? (units > 0 ? units : 1) : each * a.sms);
}

template <int kDim, int kTiles>
std::int64_t workspace_bytes(const GqaDecodeArgs& a) {
  const std::int64_t rows = 2 * std::int64_t{ctas_for<kDim, kTiles>(a)} * Config<kDim, kTiles>::kRows;
  return rows * (kDim * 4 + 8) + 4 * (a.batch.seqs + 1);
}

template <int kDim, int kTiles>
cudaError_t launch(const GqaDecodeArgs& a, cudaStream_t stream) {
  using C = Config<kDim, kTiles>;
  const int bytes = C::kSharedBytes + 4 * (a.batch.seqs + 1), ctas = ctas_for<kDim, kTiles>(a);
  const std::int64_t rows = 2 * std::int64_t{ctas} * C::kRows;
  Partials p;
  p.sum = static_cast<float*>(a.workspace);
  p.state = reinterpret_cast<float2*>(p.sum + rows * kDim);
  p.prefix = reinterpret_cast<int*>(p.state + rows);
  static const cudaError_t allowed =
      cudaFuncSetAttribute(decode<kDim, kTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, 226 * 1024);
  if (allowed != cudaSuccess) return allowed;
  decode<kDim, kTiles><<<static_cast<unsigned>(ctas), kThreads, static_cast<unsigned>(bytes), stream>>>(a, p);
  const unsigned blocks = static_cast<unsigned>((a.tokens * a.heads + kWarps - 1) / kWarps);
  combine<kDim, kTiles><<<blocks, kThreads, 0, stream>>>(a, p, ctas);
  return cudaGetLastError();
}

}  // namespace trireme::cuda::gqa
