// Rows of q as the kernel for an FP8 cache multiplies them, out of BF16.
#pragma once
#include "backends/cuda/prim/launch.h"
#include "backends/cuda/sm90/mla_decode/mla_decode.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::mla {

inline constexpr int kQueryWarps = 8;

// A warp a row: lane l has latents 16 l to 16 l + 15, and of lanes 0 to 7 each 8 rope values.
__global__ __launch_bounds__(kQueryWarps * 32) void query_kernel(MlaQueryRowsArgs a) {
  pdl_launch();
  pdl_wait();
  const std::int64_t row = std::int64_t{blockIdx.x} * kQueryWarps + threadIdx.x / 32;
  if (row >= a.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto* latent = reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(a.q_latent) +
                                                      row * a.q_latent_stride) +
                       2 * lane;
  const uint4 left = latent[0], right = latent[1];
  const std::uint32_t words[8] = {left.x, left.y, left.z, left.w, right.x, right.y, right.z, right.w};
  std::uint32_t pair = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) pair = smxx::max_pair(pair, words[i] & 0x7FFF7FFFu);
#pragma unroll
  for (int d = 16; d > 0; d /= 2) pair = smxx::max_pair(pair, __shfl_xor_sync(~0u, pair, d));
  const float scale = smxx::e4m3_power(fmaxf(smxx::low(pair), smxx::high(pair))), inverse = 1 / scale;
  std::uint32_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t x = words[2 * i], y = words[2 * i + 1];
    codes[i] = smxx::e4m3_pair(smxx::low(x) * inverse, smxx::high(x) * inverse) |
               smxx::e4m3_pair(smxx::low(y) * inverse, smxx::high(y) * inverse) << 16;
  }
  uint4* const out = reinterpret_cast<uint4*>(static_cast<char*>(a.out) + row * kMlaQueryRow);
  out[lane] = make_uint4(codes[0], codes[1], codes[2], codes[3]);
  if (lane == 0) a.out_scale[row] = scale;
  if (lane >= 8) return;
  const uint4 rope = reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(a.q_rope) +
                                                    row * a.q_rope_stride)[lane];
  const float by = inverse / a.latent_scale;
  const auto over = [&](std::uint32_t two) {
    return smxx::bf16_pair(smxx::low(two) * by, smxx::high(two) * by);
  };
  out[32 + lane] = make_uint4(over(rope.x), over(rope.y), over(rope.z), over(rope.w));
}

}  // namespace trireme::cuda::mla
