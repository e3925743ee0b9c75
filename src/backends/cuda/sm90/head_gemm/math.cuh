// What a math warpgroup does with a tile of tokens: multiply, round, store.
#pragma once
#include <cuda.h>

#include <cstdint>

#include "backends/cuda/prim/tma.cuh"
#include "backends/cuda/prim/wgmma_f8.cuh"
#include "backends/cuda/prim/wgmma_n128.cuh"
#include "backends/cuda/sm90/head_gemm/config.cuh"
#include "backends/cuda/sm90/head_gemm/operand.cuh"

namespace trireme::cuda::head {

template <class C>
class Math {
 public:
  __device__ Math(const CUtensorMap* map_out, const Params& p, const Smem<C>& smem)
      : map_out_(map_out), p_(p), smem_(smem), lane_(static_cast<int>(threadIdx.x) % 32) {
    warp_ = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
    const int group = warp_ / 4;
    group_row_ = C::kRows == 128 ? 64 * group : 0;
    first_piece_ = C::kRows == 128 ? 0 : group;
    pieces_ = p.columns / C::kPieceN;
    if constexpr (C::kFp8) load_scales();
  }

  __device__ void run() {
    const int tiles = (p_.tokens + C::kRows - 1) / C::kRows;
    for (int tile = static_cast<int>(blockIdx.y); tile < tiles; tile += static_cast<int>(gridDim.y)) {
      row_ = tile * C::kRows + group_row_ + warp_ % 4 * 16;
      if constexpr (C::kUp) {
        up();
      } else {
        down();
      }
      w_waits_ = false;
    }
    if (lane_ == 0) tma_store_wait_read<0>();
  }

 private:
  static constexpr int kPieceStep = C::kRows == 128 ? 1 : 2;
  using Acc = float[C::kPieceN / 2];

  // Of this CTA's blocks of columns (into the latent) or of k (out of it).
  __device__ void load_scales() {
    const int first = static_cast<int>(blockIdx.x) * p_.columns;
    const std::int64_t block = static_cast<std::int64_t>(blockIdx.z) * (p_.n / 128) + first / 128;
    const float* at = p_.w_scale + block * p_.w_scale_stride;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w_scale_[i] = 0;
      if (!C::kUp) w_scale_[i] = __ldg(at + i);
      if (C::kUp && 128 * i < first % 128 + p_.columns) w_scale_[i] = __ldg(at + i * p_.w_scale_stride);
    }
  }

  __device__ __forceinline__ std::uint32_t x_rows(int stage) const {
    return smem_address(smem_.x) +
           static_cast<std::uint32_t>(stage * C::kXBytes + (group_row_ + warp_ % 4 * 16) * 128);
  }
  // After reads by instructions of the warp itself, which the arrival alone would not wait for.
  __device__ __forceinline__ void release_pair() {
    fence_proxy_async();
    release();
    release();
  }
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(&smem_.empty[at_.stage]);
    at_.advance();
  }
  // The stages of the next 128 values: their addresses, once they are full.
  __device__ __forceinline__ void wait_pair(std::uint32_t (&at)[2]) const {
    mbarrier_wait(&smem_.full[at_.stage], at_.parity);
    mbarrier_wait(&smem_.full[at_.stage + 1], at_.parity);
    at[0] = x_rows(at_.stage);
    at[1] = x_rows(at_.stage + 1);
  }
  __device__ __forceinline__ void wait_w(int barrier) const {
    if (w_waits_) mbarrier_wait(&smem_.w_full[barrier], 0);
  }

  __device__ __forceinline__ void up() {
    std::uint32_t x[2], a[C::kFp8 ? 16 : 32];
    float scale[2] = {1, 1};
    wait_pair(x);
    if constexpr (C::kFp8) {
      quantise_rows(a, scale, x[0], x[1]);
    } else {
      load_rows(a, x[0], x[1]);
    }
    release_pair();
    if constexpr (C::kCodes) scale_codes(a);
    wgmma_hold(a);
    const std::uint32_t w = smem_address(smem_.w);
#pragma unroll
    for (int i = 0; i < C::kMostPieces / kPieceStep; ++i) {
      const int piece = first_piece_ + i * kPieceStep;
      if (piece >= pieces_) break;
      wait_w(piece);
      Acc acc;
      wgmma_fence();
      if constexpr (C::kFp8) {
        const std::uint64_t b =
            wgmma_operand(w + static_cast<std::uint32_t>(piece * C::kPieceN * C::kWColumnBytes));
#pragma unroll
        for (int k = 0; k < 4; ++k) wgmma_rs_e4m3(acc, a + 4 * k, b + static_cast<unsigned>(2 * k), k > 0);
      } else {
        // 64 columns are 128 rows of k, 128 bytes each.
        const std::uint64_t b = kWgmmaSwizzle128 | (std::uint64_t{1024 >> 4} << 32) |
                                (std::uint64_t{16384 >> 4} << 16) |
                                ((w + static_cast<std::uint32_t>(piece * C::kPieceN * 256)) & 0x3FFFF) >> 4;
#pragma unroll
        for (int k = 0; k < 8; ++k)
          flash::wgmma_rs_nn(acc, a + 4 * k, b + static_cast<unsigned>(128 * k), k > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(acc);
      if constexpr (C::kFp8) {
        const int first = static_cast<int>(blockIdx.x) * p_.columns % 128;
        const float of_w = pick((first + piece * C::kPieceN) / 128);
        scale_rows(acc, scale[0] * of_w, scale[1] * of_w);
      }
      store(acc, piece * C::kPieceN);
    }
  }

  // A scale for each of the warp's rows that brings all of its product into e4m3's range: no column is longer
  // than `bound`, so no value is larger than that times the row's length. A power of two, some three times
  // what the largest value would need: e4m3 has as many bits below. One warp for every 16 rows also writes
  // the scales, and the rope values over them and over the cache's.
  __device__ __forceinline__ void scale_codes(const std::uint32_t (&a)[32]) {
    const Codes& c = p_.codes;
    const int head = static_cast<int>(blockIdx.z);
    float length[2];
    row_lengths(a, length);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      inverse_[r] = 1 / smxx::e4m3_power(length[r] * __ldg(c.bound + head));
    }
    if (blockIdx.x != 0 || first_piece_ != 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // 4 rows, 8 lanes each
      const int row = 4 * i + lane_ / 8, of = row % 8 * 4;
      const float low = __shfl_sync(~0u, inverse_[0], of), high = __shfl_sync(~0u, inverse_[1], of);
      const float inverse = row < 8 ? low : high, by = inverse / c.latent_scale;
      const int token = row_ + row;
      if (token >= p_.tokens) continue;
      const std::int64_t at = static_cast<std::int64_t>(token) * p_.heads + head;
      if (lane_ % 8 == 0) c.scale[at] = 1 / inverse;
      const uint4 x = reinterpret_cast<const uint4*>(c.rope + token * c.rope_token_stride +
                                                     head * c.rope_head_stride)[lane_ % 8];
      const auto over = [&](std::uint32_t two) {
        return smxx::bf16_pair(smxx::low(two) * by, smxx::high(two) * by);
      };
      reinterpret_cast<uint4*>(c.rows + at * c.row_bytes + p_.n)[lane_ % 8] =
          make_uint4(over(x.x), over(x.y), over(x.z), over(x.w));
    }
  }

  // In e4m3. Of two neighbouring blocks of 8 columns, a pair of lanes takes one each, 4 columns wide.
  __device__ __forceinline__ void put_codes(unsigned char* buffer, const float* acc) const {
    const bool odd = lane_ % 2 != 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t block[2];  // the lower half of each: row lane / 4; the upper: 8 below
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* d = acc + 8 * j + 4 * i;
        block[i] = smxx::e4m3_pair(d[0] * inverse_[0], d[1] * inverse_[0]) |
                   smxx::e4m3_pair(d[2] * inverse_[1], d[3] * inverse_[1]) << 16;
      }
      const std::uint32_t keep = odd ? block[1] : block[0];
      const std::uint32_t other = __shfl_xor_sync(~0u, odd ? block[0] : block[1], 1);
      const std::uint32_t left = odd ? other : keep, right = odd ? keep : other;
      const int at = (odd ? 8 : 0) + lane_ % 4 / 2 * 4;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = lane_ / 4 + 8 * r;
        *reinterpret_cast<std::uint32_t*>(buffer + row * 64 + ((j ^ (row / 2 % 4)) << 4) + at) =
            __byte_perm(left, right, r == 0 ? 0x5410 : 0x7632);
      }
    }
  }

  __device__ __forceinline__ void down() {
    if (first_piece_ < pieces_) {
      Acc acc;
      if constexpr (C::kFp8) {
        down_fp8(acc);
      } else {
        down_bf16(acc);
      }
      store(acc, first_piece_ * C::kPieceN);
    } else {
      for (int i = 0; i < C::kXSteps; ++i) {
        mbarrier_wait(&smem_.full[at_.stage], at_.parity);
        release();
      }
    }
  }

  __device__ __forceinline__ std::uint64_t w_step(int step) const {
    return wgmma_operand(smem_address(smem_.w) +
                         static_cast<std::uint32_t>((step * p_.columns + first_piece_ * C::kPieceN) * 128));
  }

  __device__ __forceinline__ void down_bf16(Acc& acc) {
    Ring<C::kStages> next = at_;
#pragma unroll
    for (int step = 0; step < C::kXSteps; ++step) {
      wait_w(step);
      mbarrier_wait(&smem_.full[next.stage], next.parity);
      const std::uint64_t b = w_step(step);
      const std::uint64_t a = wgmma_operand(
          smem_address(smem_.x) + static_cast<std::uint32_t>(next.stage * C::kXBytes + group_row_ * 128));
      wgmma_fence();
#pragma unroll
      for (unsigned k = 0; k < 4; ++k)
        wgmma_ss_bf16<C::kPieceN>(acc, a + 2 * k, b + 2 * k, step > 0 || k > 0);
      wgmma_commit();
      next.advance();
      if (step == 0) continue;
      wgmma_wait<1>();
      release();
    }
    wgmma_wait<0>();
    wgmma_hold(acc);
    release();
  }

  // The tensor core's sums of e4m3 products keep few bits: 128 values at a time, added in float32.
  __device__ __forceinline__ void down_fp8(Acc& acc) {
#pragma unroll
    for (int i = 0; i < C::kPieceN / 2; ++i) acc[i] = 0;
#pragma unroll 1
    for (int step = 0; step < C::kWSteps; ++step) {
      std::uint32_t x[2], a[16];
      float scale[2];
      wait_pair(x);
      quantise_rows(a, scale, x[0], x[1]);
      release_pair();
      wait_w(step);
      const std::uint64_t b = w_step(step);
      Acc part;
      wgmma_hold(a);
      wgmma_fence();
#pragma unroll
      for (unsigned k = 0; k < 4; ++k) wgmma_rs_e4m3(part, a + 4 * k, b + 2 * k, k > 0);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(part);
      const float of_w = pick(step), upper = scale[0] * of_w, lower = scale[1] * of_w;
#pragma unroll
      for (int i = 0; i < C::kPieceN / 2; ++i) acc[i] += part[i] * (i % 4 < 2 ? upper : lower);
    }
  }

  __device__ __forceinline__ float pick(int i) const {
    const float low = i & 1 ? w_scale_[1] : w_scale_[0], high = i & 1 ? w_scale_[3] : w_scale_[2];
    return i & 2 ? high : low;
  }
  static __device__ __forceinline__ void scale_rows(Acc& acc, float upper, float lower) {
#pragma unroll
    for (int i = 0; i < C::kPieceN / 2; ++i) acc[i] *= i % 4 < 2 ? upper : lower;
  }

  __device__ __forceinline__ void put_bf16(unsigned char* buffer, const float* acc) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* d = acc + 8 * j;
      const std::uint32_t v[4] = {pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]), pack_bf16(d[4], d[5]),
                                  pack_bf16(d[6], d[7])};
      store_matrix4(smem_address(buffer) + swizzled(lane_ & 15, 2 * j + (lane_ >> 4)), v);
    }
  }

  // Columns from `col` of this CTA's; 64 at a time through this warp's two buffers.
  __device__ __forceinline__ void store(const Acc& acc, int col) {
    if (row_ >= p_.tokens) return;
    const int first = static_cast<int>(blockIdx.x) * p_.columns + col;
#pragma unroll
    for (int half = 0; half < C::kPieceN / 64; ++half) {
      unsigned char* buffer = smem_.out + (2 * warp_ + buffer_) * C::kOutBytes;
      buffer_ ^= 1;
      if (lane_ == 0) tma_store_wait_read<1>();
      __syncwarp();
      if constexpr (C::kCodes)
        put_codes(buffer, acc + 32 * half);
      else
        put_bf16(buffer, acc + 32 * half);
      fence_proxy_async();
      __syncwarp();
      if (lane_ == 0) {
        tma_store_3d(map_out_, buffer, first + 64 * half, static_cast<int>(blockIdx.z), row_);
        tma_store_commit();
      }
    }
  }

  const CUtensorMap* map_out_;
  const Params& p_;
  const Smem<C>& smem_;
  int lane_, warp_, group_row_, first_piece_, pieces_;
  int row_ = 0;          // the warp's first token in this tile
  int buffer_ = 0;       // of the two that the next 64 columns go through
  bool w_waits_ = true;  // the first tile finds the weights still arriving
  float w_scale_[4] = {};
  float inverse_[2] = {};  // one over the scales of codes of rows lane / 4 and lane / 4 + 8
  Ring<C::kStages> at_;
};

}  // namespace trireme::cuda::head
