#pragma once
// What a math warpgroup does with a tile: multiply the stages as they arrive, release them, store.

#include <cstdint>

#include "backends/cuda/prim/mbarrier.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/sm90/gemm/epilogue.cuh"
#include "backends/cuda/sm90/gemm/split_k.cuh"
#include "backends/cuda/sm90/gemm/tile_walk.cuh"

namespace trireme::cuda {

template <class C>
struct GemmSmem;
template <int kStages>
struct RingPlace;

// This warp has read its part of the stage; tells the producers of all CTAs that write to it.
__device__ __forceinline__ void release_stage(Mbarrier* empty, int cluster) {
  const std::uint32_t lane = threadIdx.x % 32;
  if (cluster == 2) {
    if (lane < 2) mbarrier_arrive_cluster_relaxed(empty, lane);
  } else if (lane == 0) {
    mbarrier_arrive(empty);
  }
}

// The scales of a tile's weights, at most two rows of blocks, 32 blocks of K at a time: lane l holds block l.
struct WeightScales {
  const float* row[2];
  int k_blocks;
  float now[2], next[2];

  __device__ void begin(const GemmParams& p, int expert, int col, const KSlice& k) {
    const int blocks = (p.n + 127) / 128;
    const float* all = p.w_scale + static_cast<std::int64_t>(expert) * blocks * p.w_scale_stride + k.first;
    const int first = min(col / 128, blocks - 1);
    row[0] = all + static_cast<std::int64_t>(first) * p.w_scale_stride;
    row[1] = all + static_cast<std::int64_t>(min(first + 1, blocks - 1)) * p.w_scale_stride;
    k_blocks = k.count;
    load(0);
  }
  __device__ void load(int from) {
    const int kb = min(from + static_cast<int>(threadIdx.x) % 32, k_blocks - 1);
    next[0] = __ldg(row[0] + kb);
    next[1] = __ldg(row[1] + kb);
  }
  // Before block kb, in order: keeps the following 32 on their way.
  __device__ void step(int kb) {
    if (kb % 32 != 0) return;
    now[0] = next[0];
    now[1] = next[1];
    if (kb + 32 < k_blocks) load(kb + 32);
  }
};

// What one warpgroup multiplies: its place in the tile.
struct MathPlace {
  int row, col;             // within the tile, of the warpgroup's part
  int scale_row;            // where the tile's scales begin among those copied
  int cols_of_first_scale;  // of its columns, those whose weights use the first row of scale blocks
};

// FP8: the tensor core's sums keep few bits, so a step of 128 starts from zero and is added in float32,
// scaled. A step is C::kParts multiplies of 64 x C::kPartN, and while one runs the one before is added.
template <class C>
class Fp8Loop {
 public:
  using Acc = float[C::kMi][C::kWn / 2];
  using Part = float[C::kPartN / 2];

  __device__ Fp8Loop(Acc& acc, const GemmParams& p, int k_blocks, const GemmSmem<C>& smem,
                     RingPlace<C::kStages>& at, WeightScales& scales, const MathPlace& place)
      : acc_(acc), p_(p), k_blocks_(k_blocks), smem_(smem), at_(at), scales_(scales), place_(place) {
    row_ = place.row + place.scale_row + static_cast<int>(threadIdx.x) % 128 / 32 * 16 +
           static_cast<int>(threadIdx.x) % 32 / 4;
  }

  __device__ void run() {
    int kb = 0;
    if constexpr (kSteps > 0) {
      for (; kb + kSteps <= k_blocks_; kb += kSteps) {
        Part even, odd;
        begin_step(scale_);
        issue(even, 0);
        chain(even, odd);
        Mbarrier* done = step_done();
        wgmma_wait<0>();
        release_stage(done, p_.cluster);
        add(odd, C::kParts - 1);
      }
    }
    for (; kb < k_blocks_; ++kb) alone();
  }

 private:
  static constexpr bool kOneScale = 128 % C::kWn == 0;
  // Steps in a chain of multiplies that overlap the additions. A chain must not go around the loop (the
  // compiler would serialise it), and has an even number of multiplies, which alternate between two sets of
  // registers.
  static constexpr int kSteps = C::kChain;
  static_assert(C::kChain * C::kParts % 2 == 0);
  // Whether no multiply's columns straddle a row of scale blocks.
  static constexpr bool kWholeParts = 128 % C::kPartN == 0 && C::kWn % C::kPartN == 0;

  // From a first multiply on its way to `even` to the last of kSteps steps on its way to `odd`.
  __device__ __forceinline__ void chain(Part& even, Part& odd) {
#pragma unroll
    for (int i = 1; i < kSteps * C::kParts; ++i) {
      Part& fill = i % 2 == 0 ? even : odd;
      Part& full = i % 2 == 0 ? odd : even;
      if (i % C::kParts != 0) {
        issue(fill, i % C::kParts);
        wgmma_wait<1>();
        add(full, i % C::kParts - 1);
      } else {
        float next[C::kMi][4];
        Mbarrier* done = step_done();
        begin_step(next);
        issue(fill, 0);
        wgmma_wait<1>();
        release_stage(done, p_.cluster);
        add(full, C::kParts - 1);
        take(next);
      }
    }
  }

  // A step by itself: nothing of this warpgroup overlaps, but the stage is released as early as can be.
  __device__ __forceinline__ void alone() {
    begin_step(scale_);
    Part part;
#pragma unroll
    for (int i = 0; i < C::kParts; ++i) {
      issue(part, i);
      wgmma_wait<0>();
      if (i == C::kParts - 1) release_stage(step_done(), p_.cluster);
      add(part, i);
    }
  }

  // Waits for a stage; the products of its scales: for rows r and r + 8, by the first and the second row of
  // blocks.
  __device__ __forceinline__ void begin_step(float (&scale)[C::kMi][4]) {
    scales_.step(kb_);
    const float sw0 = __shfl_sync(~0u, scales_.now[0], kb_ % 32);
    const float sw1 = kOneScale ? sw0 : __shfl_sync(~0u, scales_.now[1], kb_ % 32);
    ++kb_;
    mbarrier_wait(&smem_.full[at_.stage], at_.parity);
    const float* sx = smem_.scale + at_.stage * C::kScaleStride + row_;
#pragma unroll
    for (int mi = 0; mi < C::kMi; ++mi) {
      const float sx0 = sx[64 * mi], sx1 = sx[64 * mi + 8];
      scale[mi][0] = sx0 * sw0;
      scale[mi][1] = sx1 * sw0;
      scale[mi][2] = sx0 * sw1;
      scale[mi][3] = sx1 * sw1;
    }
    x_ = smem_address(smem_.x + at_.stage * C::kXBytes + place_.row * C::kRowBytes);
    w_ = smem_address(smem_.w + at_.stage * C::kWBytes + place_.col * C::kRowBytes);
  }

  // All multiplies of the step are on their way: the next stage, and the barrier of this one for when they
  // are done.
  __device__ __forceinline__ Mbarrier* step_done() {
    Mbarrier* empty = &smem_.empty[at_.stage];
    at_.advance();
    return empty;
  }

  __device__ __forceinline__ void take(const float (&next)[C::kMi][4]) {
#pragma unroll
    for (int mi = 0; mi < C::kMi; ++mi) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scale_[mi][i] = next[mi][i];
    }
  }

  __device__ __forceinline__ void issue(Part& part, int index) {
    const std::uint64_t a = wgmma_operand(x_ + index / C::kPartsN * 64 * C::kRowBytes);
    const std::uint64_t b = wgmma_operand(w_ + index % C::kPartsN * C::kPartN * C::kRowBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) wgmma_ss_e4m3<C::kPartN>(part, a + 2 * i, b + 2 * i, i > 0);
    wgmma_commit();
  }

  __device__ __forceinline__ void add(Part& part, int index) {
    wgmma_hold(part);
    const int mi = index / C::kPartsN, col = index % C::kPartsN * C::kPartN;
#pragma unroll
    for (int j = 0; j < C::kPartN / 8; ++j) {
      const bool first = kOneScale || (kWholeParts ? col : col + 8 * j) < place_.cols_of_first_scale;
      const float s0 = first ? scale_[mi][0] : scale_[mi][2], s1 = first ? scale_[mi][1] : scale_[mi][3];
      float* sum = &acc_[mi][(col + 8 * j) / 2];
      sum[0] += s0 * part[4 * j];
      sum[1] += s0 * part[4 * j + 1];
      sum[2] += s1 * part[4 * j + 2];
      sum[3] += s1 * part[4 * j + 3];
    }
  }

  Acc& acc_;
  const GemmParams& p_;
  const int k_blocks_;
  const GemmSmem<C>& smem_;
  RingPlace<C::kStages>& at_;
  WeightScales& scales_;
  const MathPlace& place_;
  int row_;
  int kb_ = 0;              // steps begun
  std::uint32_t x_, w_;     // of the step begun last, in shared memory
  float scale_[C::kMi][4];  // of the step whose parts are being added
};

template <class C>
__device__ __forceinline__ void multiply_bf16(float (&acc)[C::kMi][C::kWn / 2], const GemmParams& p,
                                              int k_blocks, const GemmSmem<C>& smem,
                                              RingPlace<C::kStages>& at, int wg_row, int wg_col) {
  Mbarrier* last = nullptr;
  for (int kb = 0; kb < k_blocks; ++kb, at.advance()) {
    mbarrier_wait(&smem.full[at.stage], at.parity);
    const std::uint64_t w =
        wgmma_operand(smem_address(smem.w + at.stage * C::kWBytes + wg_col * C::kRowBytes));
    wgmma_fence();
#pragma unroll
    for (int mi = 0; mi < C::kMi; ++mi) {
      const std::uint64_t x =
          wgmma_operand(smem_address(smem.x + at.stage * C::kXBytes + (wg_row + 64 * mi) * C::kRowBytes));
#pragma unroll
      for (int i = 0; i < 4; ++i) wgmma_ss_bf16<C::kWn>(acc[mi], x + 2 * i, w + 2 * i, true);
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (last != nullptr) release_stage(last, p.cluster);
    last = &smem.empty[at.stage];
  }
  wgmma_wait<0>();
  release_stage(last, p.cluster);
}

template <class C>
__device__ __forceinline__ void skip(const GemmParams& p, int k_blocks, const GemmSmem<C>& smem,
                                     RingPlace<C::kStages>& at) {
  for (int kb = 0; kb < k_blocks; ++kb, at.advance()) {
    mbarrier_wait(&smem.full[at.stage], at.parity);
    release_stage(&smem.empty[at.stage], p.cluster);
  }
}

template <class C>
__device__ __forceinline__ void multiply(const GemmParams& p, const GemmSmem<C>& smem, int rank,
                                         const KSlice& k, int cta) {
  const int wg = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128 - 1, 0);  // uniform, and known to be
  const int wg_row = C::kWgM == 2 ? wg * 64 * C::kMi : 0;
  const int wg_col = C::kWgM == 2 ? 0 : wg * C::kWn;
  TileWalk<C::kBm, C::kBn> walk(p);
  RingPlace<C::kStages> at;
  WeightScales scales;
  SplitKSum<C::kWn / 2> split_sum = {smem.sums, smem.sums_ready, smem.sums_free, p.split, cta};
  GemmTilePlace tile;
  bool more = walk.next(tile);
  if constexpr (C::kFp8) {
    if (more) scales.begin(p, tile.expert, tile.col + rank * C::kBn + wg_col, k);
  }
  while (more) {
    const int col = tile.col + rank * C::kBn + wg_col;
    const int rows = tile.rows - wg_row, cols = p.n - col;
    const std::int64_t first = static_cast<std::int64_t>(tile.row + wg_row) * p.out_stride + col;
    float acc[C::kMi][C::kWn / 2] = {};
    const bool any = rows > 0 && cols > 0;
    if (!any) {
      skip<C>(p, k.count, smem, at);
    } else if constexpr (C::kFp8) {
      const MathPlace place = {wg_row, wg_col, tile.row % 4, 128 - col % 128};
      Fp8Loop<C>(acc, p, k.count, smem, at, scales, place).run();
    } else {
      multiply_bf16<C>(acc, p, k.count, smem, at, wg_row, wg_col);
    }
    more = walk.next(tile);
    if constexpr (C::kFp8) {
      // On their way while this tile is stored.
      if (more) scales.begin(p, tile.expert, tile.col + rank * C::kBn + wg_col, k);
    }
    if constexpr (C::kSplit) {
      split_sum.add_and_store(acc[0], p, first, rows, cols);
      continue;
    }
    if (!any) continue;
#pragma unroll
    for (int mi = 0; mi < C::kMi; ++mi) {
      const std::int64_t offset = first + 64 * mi * p.out_stride;
      if (p.out_f32) {
        store_f32(acc[mi], static_cast<float*>(p.out) + offset, p.out_stride, rows - 64 * mi, cols);
      } else {
        store_bf16(acc[mi], static_cast<__nv_bfloat16*>(p.out) + offset, p.out_stride, rows - 64 * mi, cols);
      }
    }
  }
}

}  // namespace trireme::cuda
