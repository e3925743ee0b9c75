// Rows of q become e4m3 in shared memory, each with a scale of its own.
#pragma once
#include "backends/cuda/sm90/mla_decode/config.cuh"
#include "backends/cuda/sm90/mla_decode/fragment.cuh"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::mla {

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
  __device__ __forceinline__ void store(Fp8SharedMemory& s, int row, int lane) const {
    const std::uint32_t words[8] = {latent[0].x, latent[0].y, latent[0].z, latent[0].w,
                                    latent[1].x, latent[1].y, latent[1].z, latent[1].w};
    std::uint32_t pair = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) pair = smxx::max_pair(pair, words[i] & 0x7FFF7FFFu);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) pair = smxx::max_pair(pair, __shfl_xor_sync(~0u, pair, d));
    const float scale = smxx::e4m3_power(fmaxf(smxx::low(pair), smxx::high(pair))), inverse = 1 / scale;
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
      const auto over = [&](std::uint32_t two) {
        return smxx::bf16_pair(smxx::low(two) * inverse, smxx::high(two) * inverse);
      };
      reinterpret_cast<uint4*>(s.q_rope)[row * 8 + chunk] =
          make_uint4(over(rope.x), over(rope.y), over(rope.z), over(rope.w));
    }
    if (lane == 0) s.q_scale[row] = scale;
  }
};

// Eight warps, each 8 of the 64 rows from `first` on. In a loop: code that runs once a unit is fetched once a
// unit.
__device__ __forceinline__ void load_query(Fp8SharedMemory& s, const Params& p, std::int64_t first, int warp,
                                           int lane) {
  constexpr int kAtOnce = 4;
#pragma unroll 1
  for (int r = warp * 8; r < warp * 8 + 8; r += kAtOnce) {
    QueryRow rows[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) rows[i].load(p, first + r + i, lane);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) rows[i].store(s, r + i, lane);
  }
}

}  // namespace trireme::cuda::mla
