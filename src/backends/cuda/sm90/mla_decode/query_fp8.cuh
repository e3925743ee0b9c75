// Rows of q become e4m3 in shared memory, each with a scale of its own. Rope values are divided by it and by
// the cache's, so that a score is one sum.
#pragma once
#include "backends/cuda/sm90/mla_decode/config.cuh"
#include "backends/cuda/sm90/mla_decode/fragment.cuh"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::mla {

// The least power of two that brings magnitudes up to `most` into e4m3's range: it costs rope values, which
// are divided by it and stay BF16, nothing.
__device__ __forceinline__ float power_scale(float most) {
  return most > 0x1p-100f ? power_above(most * (1.0f / 448)) : 1;
}

// A row of q in a warp: lane l holds latents 16 l to 16 l + 15, and of lanes 0 to 7 each 8 rope values.
struct QueryRow {
  uint4 latent[2], rope;

  __device__ __forceinline__ void load(const Params& p, std::int64_t row, int lane) {
    latent[0] = latent[1] = rope = make_uint4(0, 0, 0, 0);
    if (row >= p.q_rows) return;
    const uint4* const from = reinterpret_cast<const uint4*>(p.q_latent + row * p.q_latent_stride);
    latent[0] = from[2 * lane];
    latent[1] = from[2 * lane + 1];
    if (lane < 8) rope = reinterpret_cast<const uint4*>(p.q_rope + row * p.q_rope_stride)[lane];
  }
  __device__ __forceinline__ void store(Fp8SharedMemory& s, const Params& p, int row, int lane) const {
    const std::uint32_t words[8] = {latent[0].x, latent[0].y, latent[0].z, latent[0].w,
                                    latent[1].x, latent[1].y, latent[1].z, latent[1].w};
    std::uint32_t pair = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) pair = smxx::max_pair(pair, words[i] & 0x7FFF7FFFu);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) pair = smxx::max_pair(pair, __shfl_xor_sync(~0u, pair, d));
    const float scale = power_scale(fmaxf(smxx::low(pair), smxx::high(pair))), inverse = 1 / scale;
    std::uint32_t codes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t a = words[2 * i], b = words[2 * i + 1];
      codes[i] = smxx::e4m3_pair(smxx::low(a) * inverse, smxx::high(a) * inverse) |
                 smxx::e4m3_pair(smxx::low(b) * inverse, smxx::high(b) * inverse) << 16;
    }
    const int chunk = (lane % 8) ^ (row % 8);
    reinterpret_cast<uint4*>(s.q[lane / 8])[row * 8 + chunk] =
        make_uint4(codes[0], codes[1], codes[2], codes[3]);
    if (lane < 8) {
      const float by = inverse / p.latent_scale;
      const auto over = [&](std::uint32_t two) {
        return smxx::bf16_pair(smxx::low(two) * by, smxx::high(two) * by);
      };
      reinterpret_cast<uint4*>(s.q_rope)[row * 8 + chunk] =
          make_uint4(over(rope.x), over(rope.y), over(rope.z), over(rope.w));
    }
    if (lane == 0) s.row_scale[row] = scale * p.latent_scale * p.scale_log2;
  }
};

// Eight warps, each 8 of the 64 rows from `first` on, all on their way at the same time.
__device__ __forceinline__ void load_query(Fp8SharedMemory& s, const Params& p, std::int64_t first, int warp,
                                           int lane) {
  constexpr int kEach = 8;
  QueryRow rows[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) rows[i].load(p, first + warp * kEach + i, lane);
#pragma unroll
  for (int i = 0; i < kEach; ++i) rows[i].store(s, p, warp * kEach + i, lane);
}

}  // namespace trireme::cuda::mla
