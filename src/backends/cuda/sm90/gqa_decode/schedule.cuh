// How the cache blocks of a batch are divided among CTAs. A unit is one block of one (sequence, KV head, tile
// of query rows); an item is the run of units of one such triple. Each CTA has a run of units.
#pragma once
#include <cstdint>

#include "backends/cuda/sm90/gqa_decode/gqa_decode.h"

namespace trireme::cuda::gqa {

// What of a sequence its queries need.
struct Span {
  int q_begin = 0, q_len = 0, context = 0;
  int first_page = 0, pages = 0;  // 64-token blocks; none where the sequence is not for this kernel
  int tiles = 0;                  // of query rows
};

__device__ inline Span span_of(const GqaDecodeArgs& a, int seq, int tile_rows) {
  Span s;
  s.q_begin = a.batch.q_start[seq];
  s.q_len = a.batch.q_start[seq + 1] - s.q_begin;
  s.context = a.batch.context_len[seq];
  if (s.q_len <= 0 || s.q_len > a.max_tokens || s.context <= 0) return s;
  const int first_key = a.window > 0 ? max(0, s.context - s.q_len + 1 - a.window) : 0;
  s.first_page = first_key / 64;
  s.pages = (s.context + 63) / 64 - s.first_page;
  s.tiles = (s.q_len * (a.heads / a.kv_heads) + tile_rows - 1) / tile_rows;
  return s;
}

// Consecutive units for each CTA, as even as can be: the first `extra` CTAs have one more. CTAs past `ctas`
// have none.
struct Shares {
  int ctas, each, extra;
  __device__ Shares(int units, int grid) : ctas(min(units, grid)) {
    each = ctas > 0 ? units / ctas : 0;
    extra = units - each * ctas;
  }
  __device__ int first_unit(int cta) const { return min(cta, ctas) * each + min(cta, extra); }
  __device__ int owner(int unit) const {
    const int longer = extra * (each + 1);  // units of the CTAs that have one more
    return unit < longer ? unit / (each + 1) : extra + (unit - longer) / each;
  }
};

// prefix[s] = units of the sequences before s, for s in [0, seqs]. All threads of the block, kWarps of 32.
template <int kWarps>
__device__ void prefix_units(const GqaDecodeArgs& a, int tile_rows, int* prefix, int* warp_sums) {
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  int carry = 0;
  for (int base = 0; base < a.batch.seqs; base += kWarps * 32) {
    const int seq = base + tid;
    int units = 0;
    if (seq < a.batch.seqs) {
      const Span s = span_of(a, seq, tile_rows);
      units = s.pages * s.tiles * a.kv_heads;
    }
    int sum = units;
    for (int i = 1; i < 32; i *= 2) {
      const int below = __shfl_up_sync(~0u, sum, i);
      if (lane >= i) sum += below;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int before = carry, all = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) before += warp_sums[w];
      all += warp_sums[w];
    }
    if (seq < a.batch.seqs) prefix[seq] = before + sum - units;
    carry += all;
    __syncthreads();
  }
  if (tid == 0) prefix[a.batch.seqs] = carry;
  __syncthreads();
}

// Walks the units in order.
struct Cursor {
  int seq = 0, item = 0, page = 0;  // item within the sequence: head * tiles + tile
  Span span;

  __device__ void seek(const GqaDecodeArgs& a, const int* prefix, int tile_rows, int unit) {
    int low = 0, high = a.batch.seqs;  // prefix[low] <= unit < prefix[high]
    while (high - low > 1) {
      const int mid = (low + high) / 2;
      (prefix[mid] <= unit ? low : high) = mid;
    }
    seq = low;
    span = span_of(a, seq, tile_rows);
    const int rest = unit - prefix[seq];
    item = rest / span.pages;
    page = rest % span.pages;
  }
  // To the next unit. REQUIRES: there is one.
  __device__ void advance(const GqaDecodeArgs& a, int tile_rows) {
    if (++page < span.pages) return;
    page = 0;
    if (++item < span.tiles * a.kv_heads) return;
    item = 0;
    do {
      span = span_of(a, ++seq, tile_rows);
    } while (span.pages == 0);
  }
};

}  // namespace trireme::cuda::gqa
