// A batch for the MLA decode test and bench: a paged cache filled at random where tokens are and with NaN
// elsewhere, queries, and a plain reference.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "backends/cuda/sm90/mla_decode/mla_decode.h"

namespace trireme::cuda {
namespace {

#define MLA_CUDA(expr)                                                                            \
  do {                                                                                            \
    if (const cudaError_t e_ = (expr); e_ != cudaSuccess) {                                       \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr, cudaGetErrorString(e_)); \
      std::abort();                                                                               \
    }                                                                                             \
  } while (0)

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : n_(n) {
    MLA_CUDA(cudaMalloc(&data_, n * sizeof(T) + 256));
    MLA_CUDA(cudaMemset(data_, 0xFF, n * sizeof(T) + 256));
  }
  explicit DeviceArray(const std::vector<T>& v) : DeviceArray(v.size()) {
    MLA_CUDA(cudaMemcpy(data_, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* get() const { return data_; }
  std::size_t size() const { return n_; }
  void poison() { MLA_CUDA(cudaMemset(data_, 0xFF, n_ * sizeof(T))); }
  std::vector<T> host() const {
    std::vector<T> v(n_);
    MLA_CUDA(cudaMemcpy(v.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }

 private:
  T* data_ = nullptr;
  std::size_t n_;
};

__device__ inline std::uint32_t mix(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return static_cast<std::uint32_t>(x >> 32);
}
// Roughly normal: the sum of four uniform bytes, scaled.
__device__ inline float normal(std::uint64_t x) {
  const std::uint32_t b = mix(x);
  return (static_cast<float>(b & 255) + static_cast<float>(b >> 8 & 255) + static_cast<float>(b >> 16 & 255) +
          static_cast<float>(b >> 24) - 510.0f) *
         (1 / 148.0f);
}

__global__ void fill_normal(__nv_bfloat16* out, std::int64_t rows, int cols, std::int64_t stride, float scale,
                            std::uint64_t seed) {
  for (std::int64_t i = blockIdx.x * std::int64_t{256} + threadIdx.x; i < rows * cols; i += gridDim.x * 256ll)
    out[i / cols * stride + i % cols] =
        __float2bfloat16(scale * normal(seed + static_cast<std::uint64_t>(i)));
}

constexpr float kLatentScale = 0x1p-5f;  // of FP8 caches

struct CacheView {
  unsigned char* data;
  bool fp8;
  const std::int32_t* table;
  std::int64_t table_stride;

  __device__ unsigned char* token(int seq, int pos) const {
    const std::int64_t at = table[seq * table_stride + pos / 64] * std::int64_t{64} + pos % 64;
    return data + at * (fp8 ? 640 : 1152);
  }
  __device__ float value(const unsigned char* t, int d) const {
    if (!fp8) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(t)[d]);
    if (d >= 512) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(t + 512)[d - 512]);
    __nv_fp8_e4m3 code;
    code.__x = t[d];
    return static_cast<float>(code) * kLatentScale;
  }
};

// Grid: (max pages, seqs).
__global__ void fill_cache(CacheView c, const std::int32_t* context, std::uint64_t seed) {
  const int seq = static_cast<int>(blockIdx.y);
  for (int i = 0; i < 64; ++i) {
    const int pos = static_cast<int>(blockIdx.x) * 64 + i;
    if (pos >= context[seq]) return;
    unsigned char* t = c.token(seq, pos);
    const std::uint64_t key =
        seed + (static_cast<std::uint64_t>(seq) << 40) + static_cast<std::uint64_t>(pos) * 1024;
    const int d = static_cast<int>(threadIdx.x);  // 576 threads
    if (!c.fp8) {
      reinterpret_cast<__nv_bfloat16*>(t)[d] = __float2bfloat16(normal(key + static_cast<std::uint64_t>(d)));
      continue;
    }
    const float x = normal(key + static_cast<std::uint64_t>(d));
    if (d < 512)
      t[d] = __nv_fp8_e4m3(x / kLatentScale).__x;
    else
      reinterpret_cast<__nv_bfloat16*>(t + 512)[d - 512] = __float2bfloat16(x);
  }
}

// One block of 256 threads a row of q. scores: [rows, max_context].
__global__ void reference_kernel(CacheView c, const __nv_bfloat16* ql, std::int64_t ql_stride,
                                 const __nv_bfloat16* qr, std::int64_t qr_stride,
                                 const std::int32_t* token_seq, const std::int32_t* q_start,
                                 const std::int32_t* context, const std::uint64_t* tree, int heads,
                                 float scale, float* scores, std::int64_t max_context, float* out,
                                 float* lse) {
  const std::int64_t row = blockIdx.x;
  const int token = static_cast<int>(row / heads), seq = token_seq[token];
  if (seq < 0) return;
  const int tid = static_cast<int>(threadIdx.x);
  float* s = scores + row * max_context;
  const int query = q_start[seq + 1] - q_start[seq], local = token - q_start[seq];
  const int base = context[seq] - query;
  const int limit = tree != nullptr ? context[seq] : base + local + 1;
  __shared__ float q[576];
  __shared__ float reduce[256];
  for (int d = tid; d < 576; d += 256)
    q[d] = __bfloat162float(d < 512 ? ql[row * ql_stride + d] : qr[row * qr_stride + d - 512]);
  __syncthreads();
  if (c.fp8) {  // latents of q are e4m3 as well
    float most = 0;
    for (int d = 0; d < 512; ++d) most = fmaxf(most, fabsf(q[d]));
    const float unit = most > 0 ? exp2f(ceilf(log2f(most / 448))) : 1;
    __syncthreads();
    for (int d = tid; d < 512; d += 256) q[d] = static_cast<float>(__nv_fp8_e4m3(q[d] / unit)) * unit;
    __syncthreads();
  }
  float high = -INFINITY;
  for (int pos = tid; pos < limit; pos += 256) {
    const unsigned char* t = c.token(seq, pos);
    double dot = 0;
    for (int d = 0; d < 576; ++d) dot += static_cast<double>(q[d]) * c.value(t, d);
    float x = static_cast<float>(dot) * scale;
    if (tree != nullptr && pos >= base && (tree[token] >> (pos - base) & 1) == 0) x = -INFINITY;
    s[pos] = x;
    high = fmaxf(high, x);
  }
  reduce[tid] = high;
  __syncthreads();
  for (int i = 0; i < 256; ++i) high = fmaxf(high, reduce[i]);
  __syncthreads();
  float sum = 0;
  for (int pos = tid; pos < limit; pos += 256) sum += expf(s[pos] - high);
  reduce[tid] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < 256; ++i) sum += reduce[i];
  float x0 = 0, x1 = 0;
  for (int pos = 0; pos < limit; ++pos) {
    const float p = expf(s[pos] - high);
    const unsigned char* t = c.token(seq, pos);
    x0 += p * c.value(t, tid);
    x1 += p * c.value(t, tid + 256);
  }
  out[row * 512 + tid] = x0 / sum;
  out[row * 512 + tid + 256] = x1 / sum;
  if (tid == 0) lse[row] = (high + logf(sum)) * 1.44269504f;
}

struct SequenceSpec {
  int context, query;
};

struct Batch {
  MlaDecodeShape shape;
  std::vector<SequenceSpec> specs;
  std::vector<std::int32_t> q_start, context, table, token_seq;
  int max_pages = 1, blocks = 0;

  Batch(std::vector<SequenceSpec> s, int heads, std::uint32_t seed) : specs(std::move(s)) {
    q_start.push_back(0);
    int pages = 0;
    for (std::size_t i = 0; i < specs.size(); ++i) {
      const SequenceSpec& x = specs[i];
      for (int t = 0; t < x.query; ++t)
        token_seq.push_back(x.context > 0 ? static_cast<std::int32_t>(i) : -1);
      q_start.push_back(q_start.back() + x.query);
      context.push_back(x.context);
      const int n = (x.context + 63) / 64;
      max_pages = std::max(max_pages, n);
      pages += n;
      shape.max_query_tokens = std::max(shape.max_query_tokens, x.query);
    }
    blocks = pages + 7;
    std::vector<std::int32_t> order(static_cast<std::size_t>(blocks));
    for (int i = 0; i < blocks; ++i) order[static_cast<std::size_t>(i)] = i;
    std::mt19937 rng(seed);
    std::shuffle(order.begin(), order.end(), rng);
    table.assign(specs.size() * static_cast<std::size_t>(max_pages), 0x7FFFFFF);
    std::size_t next = 0;
    for (std::size_t i = 0; i < specs.size(); ++i)
      for (int k = 0; k < (specs[i].context + 63) / 64; ++k)
        table[i * static_cast<std::size_t>(max_pages) + static_cast<std::size_t>(k)] = order[next++];
    shape.heads = heads;
    shape.seqs = static_cast<int>(specs.size());
    shape.tokens = q_start.back();
    int device = 0;
    MLA_CUDA(cudaGetDevice(&device));
    MLA_CUDA(cudaDeviceGetAttribute(&shape.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  }
};

// The batch on the device, with all that a call needs.
struct DeviceBatch {
  Batch b;
  bool fp8;
  std::int64_t ql_stride, qr_stride, rows;
  DeviceArray<std::int32_t> q_start, context, table, token_seq;
  DeviceArray<unsigned char> cache, plan, workspace, q_rows;
  DeviceArray<__nv_bfloat16> q_latent, q_rope, out;
  DeviceArray<float> lse, q_row_scale;
  MlaDecodePlanArgs plan_args;
  MlaDecodeArgs args;

  DeviceBatch(Batch batch, bool use_fp8, float q_scale, std::uint64_t seed)
      : b(std::move(batch)),
        fp8(use_fp8),
        ql_stride(512),
        qr_stride(192),
        rows(std::int64_t{b.shape.tokens} * b.shape.heads),
        q_start(b.q_start),
        context(b.context),
        table(b.table),
        token_seq(b.token_seq),
        cache(static_cast<std::size_t>(b.blocks) * 64 * (fp8 ? 640 : 1152)),
        plan(mla_decode_plan_bytes(b.shape)),
        workspace(mla_decode_workspace_bytes(b.shape)),
        q_rows(static_cast<std::size_t>(fp8 ? rows * kMlaQueryRow : 0)),
        q_latent(static_cast<std::size_t>(rows * ql_stride)),
        q_rope(static_cast<std::size_t>(rows * qr_stride)),
        out(static_cast<std::size_t>(rows * 512)),
        lse(static_cast<std::size_t>(rows)),
        q_row_scale(static_cast<std::size_t>(fp8 ? rows : 0)) {
    fill_normal<<<512, 256>>>(q_latent.get(), rows, 512, ql_stride, q_scale, seed);
    fill_normal<<<512, 256>>>(q_rope.get() + 128, rows, 64, qr_stride, q_scale, seed + (1ull << 50));
    fill_cache<<<dim3(static_cast<unsigned>(b.max_pages), static_cast<unsigned>(b.shape.seqs)), 576>>>(
        view(), context.get(), seed + (1ull << 51));
    MLA_CUDA(cudaDeviceSynchronize());
    plan_args.shape = b.shape;
    plan_args.q_start = q_start.get();
    plan_args.context_len = context.get();
    plan_args.block_table = table.get();
    plan_args.block_table_stride = b.max_pages;
    plan_args.plan = plan.get();
    args.shape = b.shape;
    args.plan = plan.get();
    args.q_latent = q_latent.get();
    args.q_latent_stride = ql_stride;
    args.q_rope = q_rope.get() + 128;
    args.q_rope_stride = qr_stride;
    args.q_rows = q_rows.get();
    args.q_scale = q_row_scale.get();
    if (fp8)
      MLA_CUDA(mla_query_rows({q_latent.get(), ql_stride, q_rope.get() + 128, qr_stride, rows, kLatentScale,
                               q_rows.get(), q_row_scale.get()},
                              nullptr));
    args.cache = cache.get();
    args.cache_type = fp8 ? MlaCache::fp8 : MlaCache::bf16;
    args.latent_scale = kLatentScale;
    args.blocks = b.blocks;
    args.block_table = table.get();
    args.block_table_stride = b.max_pages;
    args.scale = 0.135234f;
    args.out = out.get();
    args.lse = lse.get();
    args.workspace = workspace.get();
  }
  CacheView view() const { return {cache.get(), fp8, table.get(), b.max_pages}; }
};

}  // namespace
}  // namespace trireme::cuda
