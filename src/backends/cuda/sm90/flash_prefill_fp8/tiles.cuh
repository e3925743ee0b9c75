// Keys and values as the FP8 prefill kernel copies them: a sequence's context in tiles of 128 keys, each
// tile's codes as they lie in shared memory (rows of 128 bytes, 128-byte swizzle), values turned over.
#pragma once
#include "backends/cuda/sm90/flash_prefill_fp8/flash_prefill_fp8.h"
#include "backends/cuda/smxx/vec8.cuh"

namespace trireme::cuda::flash_fp8 {

constexpr int kTile = 128;        // keys
constexpr int kPart = 128 * 128;  // bytes: codes of keys, or of values, or rope columns in BF16
constexpr int kWithoutPosition = 128, kRope = 64, kValue = 128;

// Where a sequence's tiles begin. A tile that two sequences' keys would share is counted for each.
__host__ __device__ inline std::int64_t first_tile(std::int64_t k_start, int seq) {
  return k_start / kTile + seq;
}

// [tiles][heads][keys | values].
struct Room {
  unsigned char* base;
  std::int64_t tiles;
  int heads;
  __host__ __device__ static std::int64_t tiles_of(std::int64_t rows, int seqs) {
    return rows / kTile + seqs;
  }
  __host__ __device__ std::int64_t bytes() const { return tiles * heads * 2 * kPart; }
  __device__ unsigned char* keys(std::int64_t tile, int head) const {
    return base + (tile * heads + head) * 2 * kPart;
  }
};

struct PackParams {
  Room room;
  const std::int32_t* k_start;
  int seqs;
  const std::uint16_t* kv;
  std::int64_t kv_stride;
  float k_inverse, v_inverse;  // 1 / scale
  unsigned* counter;           // of the kernel behind; becomes 0
};

constexpr int kPackThreads = 256;

__device__ __forceinline__ std::uint32_t codes4(std::uint32_t first, std::uint32_t second, float by) {
  return smxx::e4m3_pair(smxx::low(first) * by, smxx::high(first) * by) |
         smxx::e4m3_pair(smxx::low(second) * by, smxx::high(second) * by) << 16;
}
__device__ __forceinline__ uint4* chunk_of(unsigned char* part, int row, int chunk) {
  return reinterpret_cast<uint4*>(part + row * 128 + ((chunk ^ (row % 8)) << 4));
}

__device__ inline void pack_keys(const PackParams& p, unsigned char* part, const std::uint16_t* from,
                                 std::int64_t row_stride, int valid) {
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kTile * 8; i += kPackThreads) {
    const int row = i / 8, chunk = i % 8;
    uint4 x[2] = {};
    if (row < valid) {
      const auto* at = reinterpret_cast<const uint4*>(from + row * row_stride + chunk * 16);
      x[0] = at[0], x[1] = at[1];
    }
    *chunk_of(part, row, chunk) =
        make_uint4(codes4(x[0].x, x[0].y, p.k_inverse), codes4(x[0].z, x[0].w, p.k_inverse),
                   codes4(x[1].x, x[1].y, p.k_inverse), codes4(x[1].z, x[1].w, p.k_inverse));
  }
}

// Turned over, a row a column of the values. Of 16 keys, 4 t to 4 t + 3 are those whose probabilities lane t
// of a quad has: 2 t, 2 t + 1, 8 + 2 t, 9 + 2 t. A warp takes 16 columns, and a lane 4 keys: what it writes
// of a row is a line.
__device__ inline void pack_values(const PackParams& p, unsigned char* part, const std::uint16_t* from,
                                   std::int64_t row_stride, int valid) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int sixteen = lane / 4, t = lane % 4;
  std::uint32_t code[4][4];  // [key][4 columns]
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int key = sixteen * 16 + j / 2 * 8 + 2 * t + j % 2;
    uint4 x[2] = {};
    if (key < valid) {
      const auto* at = reinterpret_cast<const uint4*>(from + key * row_stride + warp * 16);
      x[0] = at[0], x[1] = at[1];
    }
    code[j][0] = codes4(x[0].x, x[0].y, p.v_inverse), code[j][1] = codes4(x[0].z, x[0].w, p.v_inverse);
    code[j][2] = codes4(x[1].x, x[1].y, p.v_inverse), code[j][3] = codes4(x[1].z, x[1].w, p.v_inverse);
  }
#pragma unroll
  for (int four = 0; four < 4; ++four) {
    const std::uint32_t a = __byte_perm(code[0][four], code[1][four], 0x5140),
                        b = __byte_perm(code[2][four], code[3][four], 0x5140),
                        c = __byte_perm(code[0][four], code[1][four], 0x7362),
                        d = __byte_perm(code[2][four], code[3][four], 0x7362);
    const std::uint32_t turned[4] = {__byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632),
                                     __byte_perm(c, d, 0x5410), __byte_perm(c, d, 0x7632)};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      reinterpret_cast<std::uint32_t*>(chunk_of(part, warp * 16 + four * 4 + i, sixteen))[t] = turned[i];
  }
}

// One CTA a tile (x) and head (y). Past the context there are zeros.
__global__ __launch_bounds__(kPackThreads) void pack_kernel(const PackParams p) {
  const int tile = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  if (tile == 0 && head == 0 && threadIdx.x == 0) *p.counter = 0;
  int seq = 0, beyond = p.seqs;  // the last sequence that begins no later
  while (beyond - seq > 1) {
    const int middle = (seq + beyond) / 2;
    (first_tile(p.k_start[middle], middle) <= tile ? seq : beyond) = middle;
  }
  const std::int64_t start = p.k_start[seq], row = start + (tile - first_tile(start, seq)) * kTile;
  const auto valid = static_cast<int>(min(std::int64_t{kTile}, p.k_start[seq + 1] - row));
  if (valid <= 0) return;
  const std::int64_t row_stride = p.room.heads * p.kv_stride;
  const std::uint16_t* const from = p.kv + row * row_stride + head * p.kv_stride;
  unsigned char* const keys = p.room.keys(tile, head);
  pack_keys(p, keys, from, row_stride, valid);
  pack_values(p, keys + kPart, from + kWithoutPosition, row_stride, valid);
}

}  // namespace trireme::cuda::flash_fp8
