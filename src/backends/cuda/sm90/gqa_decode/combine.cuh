// Puts together what several CTAs saw of one item, and launches both kernels.
#pragma once
#include "backends/cuda/sm90/gqa_decode/gqa_decode.cuh"

namespace trireme::cuda::gqa {

constexpr int kCombineWarps = 4;

// One warp a row of out; rows of padding sequences become zero.
template <int kDim, int kTiles>
__global__ void __launch_bounds__(kCombineWarps * 32)
    combine(const GqaDecodeArgs a, const Partials partials, int grid) {
  constexpr int kRows = Config<kDim, kTiles>::kRows, kPairs = (kDim / 2 + 31) / 32;
  const int row = blockIdx.x * kCombineWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  // The decode kernel let this one start after it had waited itself, so what it reads may be read already.
  const int token = row / a.heads, head = row % a.heads, group = a.heads / a.kv_heads;
  const bool used = row < a.tokens * a.heads && token < a.batch.q_start[a.batch.seqs];
  int seq = 0;
  for (int high = a.batch.seqs; used && high - seq > 1;) {
    const int mid = (seq + high) / 2;
    (a.batch.q_start[mid] <= token ? seq : high) = mid;
  }
  const Span s = used ? span_of(a, seq, kRows) : Span{};
  pdl_wait();
  pdl_launch();
  if (!used) return;
  auto* out = reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(a.out) + row * a.out_stride);
  if (s.pages == 0) {
    if (s.context <= 0)
      for (int i = lane; i < kDim / 2; i += 32) out[i] = __floats2bfloat162_rn(0, 0);
    return;
  }
  const Shares shares(partials.prefix[a.batch.seqs], grid);
  const int r = (token - s.q_begin) * group + head % group;
  const int unit = partials.prefix[seq] + (head / group * s.tiles + r / kRows) * s.pages;
  const int first = shares.owner(unit), last = shares.owner(unit + s.pages - 1);
  if (first == last) return;
  const auto at = [&](int cta) {  // the row of its share
    return (2 * static_cast<std::int64_t>(cta) + (cta == first ? 1 : 0)) * kRows + r % kRows;
  };
  float m = -INFINITY;
  for (int c = first + lane; c <= last; c += 32) m = fmaxf(m, partials.state[at(c)].x);
  for (int i = 16; i > 0; i /= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, i));
  float2 sum[kPairs] = {};
  float weight = 0;
  for (int begin = first; begin <= last; begin += 32) {
    const int count = min(32, last + 1 - begin);
    const float2 state = lane < count ? partials.state[at(begin + lane)] : float2{-INFINITY, 0};
    const float mine = fast_exp2(state.x - m);
    weight += mine * state.y;
#pragma unroll 8
    for (int i = 0; i < count; ++i) {
      const float f = __shfl_sync(~0u, mine, i);
      const auto* from = reinterpret_cast<const float2*>(partials.sum + at(begin + i) * kDim);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (lane + 32 * j >= kDim / 2) break;
        const float2 v = from[lane + 32 * j];
        sum[j].x += f * v.x;
        sum[j].y += f * v.y;
      }
    }
  }
  for (int i = 16; i > 0; i /= 2) weight += __shfl_xor_sync(~0u, weight, i);
#pragma unroll
  for (int j = 0; j < kPairs; ++j)
    if (lane + 32 * j < kDim / 2)
      out[lane + 32 * j] = __floats2bfloat162_rn(sum[j].x / weight, sum[j].y / weight);
}

// How many CTAs share the units: as many as the chip holds at once, fewer where the bounds leave them
// nothing.
template <int kDim, int kTiles>
int grid_for(const GqaDecodeArgs& a) {
  using C = Config<kDim, kTiles>;
  const std::int64_t tiles = (std::int64_t{a.max_tokens} * (a.heads / a.kv_heads) + C::kRows - 1) / C::kRows;
  const std::int64_t units = a.batch.seqs * ((a.max_context + 63) / 64) * a.kv_heads * tiles;
  const std::int64_t room = std::int64_t{C::kCtas} * a.sms;
  return static_cast<int>(units < room ? (units > 0 ? units : 1) : room);
}

template <int kDim, int kTiles>
std::int64_t workspace_bytes(const GqaDecodeArgs& a) {
  const std::int64_t rows = 2 * std::int64_t{grid_for<kDim, kTiles>(a)} * Config<kDim, kTiles>::kRows;
  return rows * (kDim * 4 + 8) + 4 * (a.batch.seqs + 1);
}

template <int kDim, int kTiles>
cudaError_t launch_both(const GqaDecodeArgs& a, cudaStream_t stream) {
  using C = Config<kDim, kTiles>;
  const int bytes = C::kSharedBytes + 4 * (a.batch.seqs + 1), grid = grid_for<kDim, kTiles>(a);
  const std::int64_t rows = 2 * std::int64_t{grid} * C::kRows;
  Partials p;
  p.sum = static_cast<float*>(a.workspace);
  p.state = reinterpret_cast<float2*>(p.sum + rows * kDim);
  p.prefix = reinterpret_cast<int*>(p.state + rows);
  const cudaError_t allowed =
      cudaFuncSetAttribute(decode<kDim, kTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, 226 * 1024);
  if (allowed != cudaSuccess) return allowed;
  if (const cudaError_t e = cuda::launch(decode<kDim, kTiles>, dim3(static_cast<unsigned>(grid)),
                                         dim3(C::kThreads), static_cast<std::size_t>(bytes), stream, a, p);
      e != cudaSuccess)
    return e;
  const auto blocks = static_cast<unsigned>((a.tokens * a.heads + kCombineWarps - 1) / kCombineWarps);
  return cuda::launch(combine<kDim, kTiles>, dim3(blocks), dim3(kCombineWarps * 32), 0, stream, a, p, grid);
}

}  // namespace trireme::cuda::gqa
