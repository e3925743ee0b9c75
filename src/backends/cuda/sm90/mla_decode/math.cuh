// The math warpgroups of the MLA decode kernel.
//
// Even pages of a context are the first one's own, odd ones the second's: a warpgroup makes the scores and
// probabilities of its own pages and hands the probabilities to the other; for every page each adds its own
// half of the 512 output columns. While one takes exponentials, the tensor cores work for the other.
#pragma once
#include "backends/cuda/prim/wgmma.cuh"
#include "backends/cuda/prim/wgmma_bf16.cuh"
#include "backends/cuda/sm90/mla_decode/config.cuh"
#include "backends/cuda/sm90/mla_decode/fragment.cuh"
#include "backends/cuda/sm90/mla_decode/load.cuh"
#include "backends/cuda/sm90/mla_decode/mask.cuh"

namespace trireme::cuda::mla {

// Scores may exceed a row's reference by 2^8 before the reference follows: the accumulators are seldom
// rescaled.
inline constexpr float kMaxSlack = 8.0f;

struct MathWarpgroup {
  SharedMemory& s;
  const Params& p;
  const Part& part;
  const int wg, warp, lane;  // of two; of four; of 32
  // This thread's two rows of the tile: row(), row() + 8.
  float o[128];              // [2 rows][64 pairs of columns of this half], unnormalised
  float score[32];           // of the page at hand
  std::uint32_t q_rope[16];  // A fragments of the last box of q
  std::uint32_t prob[16];    // A fragments of the page's probabilities
  float row_max[2];          // reference in log2 units, over pages so far
  float row_sum[2];          // this thread's columns of this warpgroup's pages
  std::uint32_t pages_done = 0;
  bool started = false;  // o holds something

  __device__ __forceinline__ MathWarpgroup(SharedMemory& shared, const Params& params, const Part& mine,
                                           int group, int thread)
      : s(shared), p(params), part(mine), wg(group), warp(thread / 32), lane(thread % 32) {}

  __device__ __forceinline__ int row() const { return warp * 16 + lane / 4; }

  // Every thread arrives, behind what it wrote or read itself: that costs no more than one arrival a warp.
  __device__ __forceinline__ void release(Mbarrier* bar) const { mbarrier_arrive(bar); }

  // Scores of latent boxes [from, to) in the order in which they arrive: this warpgroup's own half is free
  // first. The rope box comes before all.
  __device__ __forceinline__ void issue_scores(int buffer, std::uint32_t parity, int from, int to,
                                               bool with_rope, int odd) {
    if (with_rope) {
      mbarrier_wait(&s.k_full[buffer][kRopeBox], parity);
      const std::uint64_t k = wgmma_desc_k_major(s.k[buffer][kRopeBox]);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma_bf16_n64_rs_nt(score, q_rope + step * 4, k + step * 2, step != 0);
      }
    }
#pragma unroll
    for (int i = from; i < to; ++i) {
      const int box = (i % 4) + 4 * ((i / 4) ^ odd);
      const std::uint64_t q = wgmma_desc_k_major(s.q[box]), k = wgmma_desc_k_major(s.k[buffer][box]);
      mbarrier_wait(&s.k_full[buffer][box], parity);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const int offset = step * 2;
        wgmma_bf16_n64_ss_nt(score, q + offset, k + offset, true);
      }
    }
  }

  __device__ __forceinline__ void rescale(const float (&from)[2]) {
    const bool moved = from[0] != row_max[0] || from[1] != row_max[1];
    if (__any_sync(~0u, moved)) {
      const float f0 = from[0] == row_max[0] ? 1.0f : exp2_approx(from[0] - row_max[0]);
      const float f1 = from[1] == row_max[1] ? 1.0f : exp2_approx(from[1] - row_max[1]);
      row_sum[0] *= f0;
      row_sum[1] *= f1;
#pragma unroll
      for (int i = 0; i < 128; i += 4) {
        o[i] *= f0;
        o[i + 1] *= f0;
        o[i + 2] *= f1;
        o[i + 3] *= f1;
      }
    }
  }

  __device__ __forceinline__ std::uint64_t values(int buffer) const {
    return wgmma_desc_mn_major(s.k[buffer][wg * 4], kBox * 2);
  }

  // Adds the other warpgroup's page `count`, whose probabilities are ready or soon will be.
  __device__ __forceinline__ void issue_other(std::uint32_t count) {
    const int buffer = static_cast<int>(count & 1);
    mbarrier_wait(&s.p_ready[buffer], (count >> 1) & 1);
    const float before[2] = {row_max[0], row_max[1]};
    row_max[0] = s.row_max[buffer][row()];
    row_max[1] = s.row_max[buffer][row() + 8];
    rescale(before);
    wgmma_hold(o);
    wgmma_fence();
    const std::uint64_t a = wgmma_desc_k_major(s.p), v = values(buffer);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma_bf16_n256_ss_nn(o, a + step * 2, v + step * 128, started || step != 0);
    wgmma_commit();
    started = true;
  }

  __device__ __forceinline__ void issue_own(int buffer) {
    wgmma_hold(o);
    wgmma_hold(prob);
    wgmma_fence();
    const std::uint64_t v = values(buffer);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma_bf16_n256_rs_nn(o, prob + step * 4, v + step * 128, started || step != 0);
    wgmma_commit();
    started = true;
  }

  // Rows of the last page beyond the context may hold anything, and 0 * NaN is NaN.
  __device__ __forceinline__ void clear_tail(int buffer, int valid) {
    const int chunks = (kPage - valid) * 8;
    for (int box = 0; box < kBoxes - 1; ++box) {
      uint4* rows = reinterpret_cast<uint4*>(s.k[buffer][box]) + valid * 8;
      for (int i = warp * 32 + lane; i < chunks; i += 128) rows[i] = make_uint4(0, 0, 0, 0);
    }
    fence_proxy_async();
    named_barrier_sync(1 + wg, 128);
  }

  // score -> prob, row_max, row_sum; the other warpgroup's copy goes to shared memory.
  __device__ __forceinline__ void softmax(int buffer) {
    float high[2] = {score[0], score[2]};
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      high[0] = fmaxf(high[0], fmaxf(score[i], score[i + 1]));
      high[1] = fmaxf(high[1], fmaxf(score[i + 2], score[i + 3]));
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      high[r] = quad_max(high[r]) * p.scale_log2;
      if (high[r] > row_max[r] + kMaxSlack) row_max[r] = high[r];
      if ((lane & 3) == 0) s.row_max[buffer][row() + r * 8] = row_max[r];
    }
    const float m0 = row_max[0] == -INFINITY ? 0.0f : row_max[0];
    const float m1 = row_max[1] == -INFINITY ? 0.0f : row_max[1];
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      score[i] = exp2_approx(fmaf(score[i], p.scale_log2, -m0));
      score[i + 1] = exp2_approx(fmaf(score[i + 1], p.scale_log2, -m0));
      score[i + 2] = exp2_approx(fmaf(score[i + 2], p.scale_log2, -m1));
      score[i + 3] = exp2_approx(fmaf(score[i + 3], p.scale_log2, -m1));
      prob[i / 2] = pack_bf16(score[i], score[i + 1]);
      prob[i / 2 + 1] = pack_bf16(score[i + 2], score[i + 3]);
    }
    // This warpgroup has added the page before: of p a warp's tensor core reads the warp's own 16 rows alone.
    const std::uint32_t base = smem_address(s.p);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      store_fragment(prob + step * 4, base + fragment_offset(warp, lane, step));
    fence_proxy_async();
    release(&s.p_ready[buffer]);
  }

  __device__ __forceinline__ void add_row_sums() {
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      row_sum[0] += score[i] + score[i + 1];
      row_sum[1] += score[i + 2] + score[i + 3];
    }
  }

  // The first part of the scores of own page `count`. The rest follows the other's page before it (own_page):
  // that frees a buffer, and its probabilities come at about that time.
  __device__ __forceinline__ void begin_page(std::uint32_t count, int page) {
    wgmma_hold(score);
    wgmma_hold(q_rope);
    wgmma_fence();
    issue_scores(static_cast<int>(count & 1), (count >> 1) & 1, 0, 4, true, page & 1);
    wgmma_commit();
  }

  // An own page, begun, from there on. follows: the page before it is of this unit too, and still to be
  // added.
  __device__ __forceinline__ void own_page(const Unit& unit, int page, int first_limit, bool follows,
                                           bool last_own, std::uint32_t count) {
    const int buffer = static_cast<int>(count & 1);
    if (follows) issue_other(count - 1);
    issue_scores(buffer, (count >> 1) & 1, 4, 8, false, page & 1);
    wgmma_commit();
    wgmma_wait<1>();
    if (follows) release(&s.k_half_free[buffer ^ 1][wg]);
    wgmma_wait<0>();
    wgmma_hold(score);
    release(&s.k_rope_free[buffer]);
    if (last_own) release(&s.q_free);

    const int end = (page + 1) * kPage;
    if (end > first_limit) mask_scores(score, p, unit, part.tile * kTileRows + unit.local + row(), page);
    if (end > unit.context) clear_tail(buffer, unit.context - page * kPage);
    const float before[2] = {row_max[0], row_max[1]};
    softmax(buffer);
    wgmma_hold(o);
    rescale(before);
    issue_own(buffer);
    add_row_sums();
    wgmma_wait<0>();
    wgmma_hold(o);
    release(&s.k_half_free[buffer][wg]);
  }

  // Takes up unit number `units_done` of this part: its first own page, if it has one, is begun.
  __device__ __forceinline__ void begin_unit(int from, int pages, std::uint32_t units_done) {
    mbarrier_wait(&s.q_full, units_done & 1);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      load_fragment(q_rope + step * 4, smem_address(s.q[kRopeBox]) + fragment_offset(warp, lane, step));
    const int i = first_own(from);
    if (i < pages)
      begin_page(pages_done + static_cast<std::uint32_t>(i), from + i);
    else
      release(&s.q_free);
  }
  // Of pages from `first` on.
  __device__ __forceinline__ int first_own(int first) const { return (first ^ wg) & 1; }

  __device__ __forceinline__ void run() {
    const int last_unit = part.last_unit();
    int u = part.begin.unit;
    if (u > last_unit) return;
    Unit unit = part.units[u];
    int first = part.first_page(u), last = part.last_page(u);
    begin_unit(first, last - first, 0);
    for (std::uint32_t units_done = 0;; ++units_done) {
      const int first_limit = first_hidden(p, unit, part.tile * kTileRows + unit.local);
      row_max[0] = row_max[1] = -INFINITY;
      row_sum[0] = row_sum[1] = 0;
      started = false;
      const int n = last - first;
      int i = first_own(first);
      while (i < n) {
        const std::uint32_t count = pages_done + static_cast<std::uint32_t>(i);
        own_page(unit, first + i, first_limit, i > 0, i + 2 >= n, count);
        i += 2;
        if (i < n) begin_page(count + 2, first + i);
      }
      pages_done += static_cast<std::uint32_t>(n);
      const bool partial = first > 0 || last < unit.pages;
      const Unit done = unit;
      const int done_index = u;
      const bool more = ++u <= last_unit;
      if (more) {
        unit = part.units[u];
        first = part.first_page(u);
        last = part.last_page(u);
      }
      if (i == n) {
        // The unit's last page is the other's.
        issue_other(pages_done - 1);
        wgmma_wait<0>();
        release(&s.k_half_free[(pages_done - 1) & 1][wg]);
      }
      wgmma_wait<0>();  // where the compiler sees it on every path
      wgmma_hold(o);
      const Totals t = totals(static_cast<int>(units_done & 1));
      if (partial)
        write_partial(done, done_index, t);
      else
        write_out(done, t);
      if (!more) return;
      begin_unit(first, last - first, units_done + 1);
    }
  }

  struct Totals {
    float inverse[2];  // of the sum of probabilities, by row
    float lse[2];
  };

  __device__ __forceinline__ Totals totals(int parity) {
    const int r0 = row();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_sum[r] = quad_sum(row_sum[r]);
      if ((lane & 3) == 0) s.row_sum[parity][wg][r0 + r * 8] = row_sum[r];
    }
    release(&s.sums_ready);
    mbarrier_wait(&s.sums_ready, static_cast<std::uint32_t>(parity));
    Totals t;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = s.row_sum[parity][0][r0 + r * 8] + s.row_sum[parity][1][r0 + r * 8];
      t.inverse[r] = sum > 0 ? 1 / sum : 0;
      t.lse[r] = sum > 0 ? row_max[r] + log2f(sum) : -INFINITY;
    }
    return t;
  }

  // A piece of a unit, for combine_kernel: float32, and its log2 sums.
  __device__ __forceinline__ void write_partial(const Unit& unit, int u, const Totals& t) const {
    const std::int64_t first = slot_row(p, part, u);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int tile_row = row() + r * 8;
      const std::int64_t at = first + tile_row;
      if (part.tile * kTileRows + tile_row >= unit.rows) continue;
      float2* out = reinterpret_cast<float2*>(p.partials.out + at * kLatent + wg * kHalf) + (lane & 3);
#pragma unroll
      for (int i = 0; i < 32; ++i)
        out[i * 4] = make_float2(o[i * 4 + r * 2] * t.inverse[r], o[i * 4 + r * 2 + 1] * t.inverse[r]);
      if (wg == 0 && (lane & 3) == 0) p.partials.lse[at] = t.lse[r];
    }
  }

  __device__ __forceinline__ void write_out(const Unit& unit, const Totals& t) const {
    const bool odd = lane & 1, upper = lane & 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int local = part.tile * kTileRows + row() + r * 8;
      const bool real = local < unit.rows;
      const std::int64_t q_row = unit.row + local;
      if (real && wg == 0 && (lane & 3) == 0 && p.lse != nullptr) p.lse[q_row] = t.lse[r];
      uint4* out = reinterpret_cast<uint4*>(p.out + q_row * p.out_stride + wg * kHalf) + (lane & 3);
#pragma unroll
      for (int g = 0; g < 8; ++g) {
        // Four lanes hold 2 columns each of four runs of 8: afterwards each holds one run.
        std::uint32_t x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float* pair = o + (g * 4 + j) * 4 + r * 2;
          x[j] = pack_bf16(pair[0] * t.inverse[r], pair[1] * t.inverse[r]);
        }
        const std::uint32_t y0 = __shfl_xor_sync(~0u, odd ? x[0] : x[1], 1);
        const std::uint32_t y1 = __shfl_xor_sync(~0u, odd ? x[2] : x[3], 1);
        const std::uint32_t a = odd ? y0 : x[0], b = odd ? x[1] : y0;
        const std::uint32_t c = odd ? y1 : x[2], d = odd ? x[3] : y1;
        const std::uint32_t z0 = __shfl_xor_sync(~0u, upper ? a : c, 2);
        const std::uint32_t z1 = __shfl_xor_sync(~0u, upper ? b : d, 2);
        const uint4 run = upper ? make_uint4(z0, z1, c, d) : make_uint4(a, b, z0, z1);
        if (real) out[g * 4] = run;
      }
    }
  }
};

}  // namespace trireme::cuda::mla
