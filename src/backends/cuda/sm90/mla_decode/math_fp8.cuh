// The math warpgroups of the MLA decode kernel over an FP8 cache: both products run on e4m3 as it lies.
//
// Even pages of a context are the first warpgroup's own, odd ones the second's: it takes their scores and
// probabilities, and adds them together with the page before. Scores are rows of q by tokens. Values are the
// left side of the second product: only from registers may they lie across the direction that is summed over.
// Sums are therefore columns (two neighbours a thread) by rows of q. What the tensor core adds keeps few
// bits, so two pages are added there and their sum to others in float32.
#pragma once
#include <cuda_fp16.h>

#include "backends/cuda/prim/wgmma.cuh"
#include "backends/cuda/prim/wgmma_bf16.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/mla_decode/config.cuh"
#include "backends/cuda/sm90/mla_decode/fragment.cuh"
#include "backends/cuda/sm90/mla_decode/load_fp8.cuh"
#include "backends/cuda/sm90/mla_decode/mask.cuh"

namespace trireme::cuda::mla {

// Four 8x8 matrices of 16-bit words, transposed: lane l names the l % 8-th row of matrix l / 8.
__device__ __forceinline__ void load_transposed(std::uint32_t (&a)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address)
               : "memory");
}

struct Fp8MathWarpgroup {
  Fp8SharedMemory& s;
  const Params& p;
  const Part& part;
  const int wg, warp, lane;  // of two; of four; of 32
  // Of quarters 2 wg and 2 wg + 1, each in two blocks of 64 columns: columns 16 warp + 2 (lane / 4) and the
  // next (o[..][4 j + 2], [4 j + 3]) by rows 8 j + 2 (lane % 4) and the next of q.
  float o[4][32];
  float row_max[2];    // of rows row(), row() + 8: the reference of this warpgroup's last page
  float row_sum[2];    // this thread's tokens of this warpgroup's pages
  float row_scale[2];  // from scores to log2 units
  int rows;            // of the unit, from this CTA's first on: what others do must not change theirs
  std::uint32_t pages_done = 0, units_done = 0;

  __device__ __forceinline__ Fp8MathWarpgroup(Fp8SharedMemory& shared, const Params& params, const Part& mine,
                                              int group, int thread)
      : s(shared), p(params), part(mine), wg(group), warp(thread / 32), lane(thread % 32) {}

  __device__ __forceinline__ int row() const { return warp * 16 + lane / 4; }
  __device__ __forceinline__ static Mbarrier* at(Mbarrier* two, std::uint32_t count) {
    return &two[count & 1];
  }

  // Every thread arrives, behind what it wrote or read itself.
  __device__ __forceinline__ void release(Mbarrier* bar) const { mbarrier_arrive(bar); }

  // Starts the products of page `count`, the context's `page_index`-th. The half that is there first comes
  // first.
  __device__ __forceinline__ void multiply(float (&score)[32], int page_index, std::uint32_t count) const {
    const int at_page = static_cast<int>(count % kFp8Pages);
    const Fp8Page& page = s.pages[at_page];
    const std::uint64_t q = wgmma_desc_k_major(s.q[0]), k = wgmma_desc_k_major(page.codes[0]);
    const std::uint64_t q_rope = wgmma_desc_k_major(s.q_rope), rope = wgmma_desc_k_major(page.rope);
    wgmma_hold(score);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int half = (page_index & 1) ^ i;
      const auto box = static_cast<std::uint32_t>(2 * half * (kFp8Box / 16));
      mbarrier_wait(&s.half_full[half][at_page], (count / kFp8Pages) & 1);
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        const std::uint64_t at = box + static_cast<std::uint32_t>(t / 4 * (kFp8Box / 16) + t % 4 * 2);
        wgmma_ss_e4m3<64>(score, q + at, k + at, i + t != 0);
      }
      if (i == 1) continue;
#pragma unroll
      for (int t = 0; t < 4; ++t) wgmma_bf16_n64_ss_nt(score, q_rope + t * 2, rope + t * 2, true);
    }
    wgmma_commit();
  }

  // Rows of the last page beyond the context may hold anything, and 0 * NaN is NaN.
  __device__ __forceinline__ void clear_tail(Fp8Page& page, int valid) const {
    for (int t = 0; t < kQuarters; ++t) {
      uint4* const rows = reinterpret_cast<uint4*>(page.codes[t]);
      for (int i = valid * 8 + warp * 32 + lane; i < kPage * 8; i += 128) rows[i] = make_uint4(0, 0, 0, 0);
    }
  }

  // An own page, whose products are on their way. follows: the page before it is of this unit too, and still
  // to be added. more: this unit has another own page.
  __device__ __forceinline__ void own_page(float (&score)[32], const Unit& unit, int page, int first_limit,
                                           bool follows, bool more, std::uint32_t count) {
    wgmma_wait<0>();
    wgmma_hold(score);
    if (!more) release(&s.q_free);
    if ((page + 1) * kPage > first_limit) {
      mask_scores(score, p, unit, part.tile * kTileRows + unit.local + row(), page);
      if (const int valid = unit.context - page * kPage; valid < kPage)
        clear_tail(s.pages[count % kFp8Pages], valid);
    }
    float before[2] = {-INFINITY, -INFINITY};
    if (follows) {
      mbarrier_wait(at(s.max_ready, count - 1), ((count - 1) >> 1) & 1);
      const Fp8Told& told = s.told[(count - 1) % kFp8Pages];
      before[0] = told.row_max[row()];
      before[1] = told.row_max[row() + 8];
    }
    softmax(score, before, count);
    wait_probabilities(count);
    if (!follows || has_moved(count)) {
      if (follows) add_page(count - 1);
      if (more) multiply(score, page + 2, count + 2);
      add_page(count);
    } else {
      wait_probabilities(count - 1);
      add_two(count, [&] {
        if (more) multiply(score, page + 2, count + 2);
      });
    }
  }

  __device__ __forceinline__ void wait_probabilities(std::uint32_t count) const {
    mbarrier_wait(&s.p_ready[count % kFp8Pages], (count / kFp8Pages) & 1);
  }
  __device__ __forceinline__ bool has_moved(std::uint32_t count) const {
    const int4 moved = *reinterpret_cast<const int4*>(s.told[count % kFp8Pages].moved);
    return (moved.x | moved.y | moved.z | moved.w) != 0;
  }

  // score -> row_max, row_sum, what the warpgroups are told of the references, and probabilities where they
  // are multiplied. before: the references so far.
  __device__ __forceinline__ void softmax(const float (&score)[32], const float (&before)[2],
                                          std::uint32_t count) {
    Fp8Told& told = s.told[count % kFp8Pages];
    float high[2] = {score[0], score[2]};
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      high[0] = fmaxf(high[0], fmaxf(score[i], score[i + 1]));
      high[1] = fmaxf(high[1], fmaxf(score[i + 2], score[i + 3]));
    }
    bool moved = false;
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      high[r] = quad_max(high[r]) * row_scale[r];
      const float now = high[r] > before[r] + kFp8Slack ? high[r] + kFp8Margin : before[r];
      const float rescale = now == before[r] ? 1.0f : exp2_approx(before[r] - now);
      moved |= now != before[r] && row() + r * 8 < rows;
      if ((lane & 3) == 0) {
        told.row_max[row() + r * 8] = now;
        told.rescale[row() + r * 8] = rescale;
      }
      if (now != row_max[r]) row_sum[r] *= exp2_approx(row_max[r] - now);
      row_max[r] = now;
      base[r] = kFp8One - (now == -INFINITY ? 0.0f : now);
    }
    moved = __any_sync(~0u, moved);
    if (lane == 0) told.moved[warp] = moved;
    release(&s.max_ready[count & 1]);
    __half2 prob[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int r = i % 2;
      const float x = exp2_approx(fmaf(score[2 * i], row_scale[r], base[r]));
      const float y = exp2_approx(fmaf(score[2 * i + 1], row_scale[r], base[r]));
      row_sum[r] += x + y;
      prob[i] = __floats2half2_rn(x, y);
    }
    store_probabilities(prob, count);
    fence_proxy_async();
    release(&s.p_ready[count % kFp8Pages]);
  }

  // Probabilities of page `count`. Of 32 tokens, those that lane q of a quad needs of the values
  // (load_values) stand in bytes 4 q to 4 q + 3 and 16 + 4 q to 16 + 4 q + 3.
  __device__ __forceinline__ void store_probabilities(const __half2 (&prob)[16], std::uint32_t count) const {
    unsigned char* const box = s.prob[count % kFp8Pages / 2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int line = row() + r * 8;
#pragma unroll
      for (int g = 0; g < 4; ++g) {  // 16 tokens
        const int chunk = (static_cast<int>(count % 2) * 4 + g) ^ (line % 8);
        *reinterpret_cast<std::uint32_t*>(box + line * 128 + chunk * 16 + (lane & 3) * 4) =
            __byte_perm(codes_of(prob[4 * g + r]), codes_of(prob[4 * g + 2 + r]), 0x7531);
      }
    }
  }

  // As e4m3 in the upper bytes of the halves: the float16 is 2^8 times smaller, so that its exponent is where
  // e4m3 has it, and an addition rounds. What converts such pairs is slower.
  __device__ __forceinline__ static std::uint32_t codes_of(__half2 prob) {
    return 2 * *reinterpret_cast<const std::uint32_t*>(&prob) + 0x00800080u;
  }

  // Values of 64 tokens by block b's columns, as the left side of a product: for each 32 tokens 4 registers.
  __device__ __forceinline__ void load_values(std::uint32_t* a, std::uint32_t count, int b) const {
    const std::uint32_t box = smem_address(s.pages[count % kFp8Pages].codes[2 * wg + b / 2]);
    const int chunk = b % 2 * 4 + warp;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int token = 32 * step + lane;
      std::uint32_t m[4];
      load_transposed(m, box + static_cast<std::uint32_t>(token * 128 + ((chunk ^ (token % 8)) << 4)));
      a[4 * step] = __byte_perm(m[0], m[1], 0x6420);
      a[4 * step + 1] = __byte_perm(m[0], m[1], 0x7531);
      a[4 * step + 2] = __byte_perm(m[2], m[3], 0x6420);
      a[4 * step + 3] = __byte_perm(m[2], m[3], 0x7531);
    }
  }
  __device__ __forceinline__ std::uint64_t probabilities(std::uint32_t count) const {
    return wgmma_desc_k_major(s.prob[count % kFp8Pages / 2]) + count % 2 * 4;
  }

  // Adds page `count`, whose probabilities are ready or soon will be.
  __device__ __forceinline__ void add_page(std::uint32_t count) {
    wait_probabilities(count);
    if (has_moved(count)) rescale(s.told[count % kFp8Pages]);
    const std::uint64_t box = probabilities(count);
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      std::uint32_t a[8];
      float sum[32];
      load_values(a, count, b);  // not before: the owner may have cleared a tail
      wgmma_hold(a);
      wgmma_hold(sum);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 2; ++step) wgmma_rs_e4m3(sum, a + 4 * step, box + step * 2, step != 0);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(sum);
#pragma unroll
      for (int i = 0; i < 32; ++i) o[b][i] += sum[i];
    }
    release(&s.half_free[wg][count % kFp8Pages]);
  }

  // Adds pages `count` - 1 and `count`, which have one reference and whose probabilities are ready. When they
  // are multiplied their places are free, and the tensor cores are given what comes next.
  template <class Next>
  __device__ __forceinline__ void add_two(std::uint32_t count, Next&& next) {
    if (has_moved(count - 1)) rescale(s.told[(count - 1) % kFp8Pages]);
    const std::uint64_t box[2] = {probabilities(count - 1), probabilities(count)};
    std::uint32_t a[16];
    load_values(a, count - 1, 0);
    load_values(a + 8, count, 0);
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      float sum[32];
      wgmma_hold(a);
      wgmma_hold(sum);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step)
        wgmma_rs_e4m3(sum, a + 4 * step, box[step / 2] + step % 2 * 2, step != 0);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(sum);
      wgmma_hold(a);
      if (b < 3) {
        load_values(a, count - 1, b + 1);
        load_values(a + 8, count, b + 1);
      } else {
        release(&s.half_free[wg][(count - 1) % kFp8Pages]);
        release(&s.half_free[wg][count % kFp8Pages]);
        next();
      }
#pragma unroll
      for (int i = 0; i < 32; ++i) o[b][i] += sum[i];
    }
  }

  __device__ __forceinline__ void rescale(const Fp8Told& told) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 f = *reinterpret_cast<const float2*>(&told.rescale[8 * j + 2 * (lane & 3)]);
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        o[b][4 * j] *= f.x;
        o[b][4 * j + 1] *= f.y;
        o[b][4 * j + 2] *= f.x;
        o[b][4 * j + 3] *= f.y;
      }
    }
  }

  __device__ __forceinline__ void run() {
    const int last_unit = part.last_unit();
    float score[32];
    if (part.begin.unit <= last_unit) begin_unit(score, part.begin.unit);
    for (int u = part.begin.unit; u <= last_unit; ++u) {
      const Unit& unit = part.units[u];  // few of its fields are worth a register
      const int first = part.first_page(u), last = part.last_page(u), n = last - first;
      const int first_limit = first_hidden(p, unit, part.tile * kTileRows + unit.local);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        row_max[r] = -INFINITY;
        row_sum[r] = 0;
        row_scale[r] = s.q_scale[row() + r * 8] * (p.latent_scale * p.scale_log2);
      }
      rows = unit.rows - part.tile * kTileRows;
#pragma unroll
      for (int b = 0; b < 4; ++b)
#pragma unroll
        for (int i = 0; i < 32; ++i) o[b][i] = 0;
      int i = (first ^ wg) & 1;
      if (i >= n) release(&s.q_free);
      for (; i < n; i += 2)
        own_page(score, unit, first + i, first_limit, i > 0, i + 2 < n,
                 pages_done + static_cast<std::uint32_t>(i));
      pages_done += static_cast<std::uint32_t>(n);
      if (i == n) add_other_last();
      ++units_done;
      if (u < last_unit) begin_unit(score, u + 1);
      write(unit, u, first > 0 || last < unit.pages);
    }
  }

  // Waits for unit u's rows of q and starts the first scores.
  __device__ __forceinline__ void begin_unit(float (&score)[32], int u) const {
    mbarrier_wait(&s.q_full, units_done & 1);
    const int first = part.first_page(u), i = (first ^ wg) & 1;
    if (i < part.last_page(u) - first) multiply(score, first + i, pages_done + static_cast<std::uint32_t>(i));
  }

  // The unit's last page is the other's.
  __device__ __forceinline__ void add_other_last() {
    const std::uint32_t count = pages_done - 1;
    mbarrier_wait(at(s.max_ready, count), (count >> 1) & 1);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float now = s.told[count % kFp8Pages].row_max[row() + r * 8];
      if (now != row_max[r]) row_sum[r] *= exp2_approx(row_max[r] - now);
      row_max[r] = now;
    }
    add_page(count);
  }

  __device__ __forceinline__ void write(const Unit& unit, int u, bool partial) {
    auto& sums = s.row_sum[units_done & 1];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_sum[r] = quad_sum(row_sum[r]);
      if ((lane & 3) == 0) sums[wg][row() + r * 8] = row_sum[r];
    }
    release(&s.sums_ready);
    mbarrier_wait(&s.sums_ready, (units_done & 1) ^ 1);  // units are counted from 1 here
    const std::int64_t slot = slot_row(p, part, u);
    const int tile_row = part.tile * kTileRows;  // of the unit
    if (wg == 0 && (lane & 3) == 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int line = row() + r * 8;
        if (tile_row + line >= unit.rows) continue;
        const float sum = sums[0][line] + sums[1][line];
        const float lse = sum > 0 ? row_max[r] + log2f(sum) - kFp8One : -INFINITY;
        if (partial)
          p.partials.lse[slot + line] = lse;
        else if (p.lse != nullptr)
          p.lse[unit.row + tile_row + line] = lse;
      }
    }
    // A code is 2^8 times the float16 that was added to row_sum.
    const float value = p.latent_scale * 0x1p-8f;
    const int first_line = (lane & 3) * 2, column = 2 * wg * kQuarter + warp * 16 + lane / 4 * 2;
    const std::int64_t first = (partial ? slot : unit.row + tile_row) + first_line;
    float* const partial_out = p.partials.out + first * kLatent + column;
    std::uint16_t* const out = p.out + first * p.out_stride + column;
    const int stride = static_cast<int>(p.out_stride);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int line = i / 2 * 8 + i % 2;
      const float sum = sums[0][first_line + line] + sums[1][first_line + line];
      const float inverse = sum > 0 ? __fdividef(value, sum) : sum;  // NaN stays
      if (first_line + line >= rows) continue;
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        const float x = o[b][i / 2 * 4 + i % 2] * inverse, y = o[b][i / 2 * 4 + 2 + i % 2] * inverse;
        if (partial)
          *reinterpret_cast<float2*>(partial_out + line * kLatent + b * 64) = make_float2(x, y);
        else
          *reinterpret_cast<std::uint32_t*>(out + line * stride + b * 64) = pack_bf16(x, y);
      }
    }
  }
};

}  // namespace trireme::cuda::mla
