// Ragged paged batches on the GPU and their attention in double precision on the CPU, for tests and benches.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "backends/cuda/smxx/attention_generic.h"

namespace trireme::cuda::testing_attention {

using Bf16 = __nv_bfloat16;
using Rng = std::mt19937_64;

inline float value(Bf16 x) { return __bfloat162float(x); }
inline std::vector<Bf16> nans(std::size_t n) { return std::vector<Bf16>(n, __float2bfloat16(NAN)); }
inline void randomise(Rng& rng, Bf16* x, std::size_t n, float size = 1) {
  std::normal_distribution<float> normal(0, size);
  for (std::size_t i = 0; i < n; ++i) x[i] = __float2bfloat16(normal(rng));
}
inline std::vector<Bf16> random_bf16(Rng& rng, std::size_t n, float size = 1) {
  std::vector<Bf16> x(n);
  randomise(rng, x.data(), n, size);
  return x;
}

// Device memory with a copy of a host array.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& host) : n_(host.size()) {
    cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(n_, 1) * sizeof(T));
    put(host);
  }
  // `n` values: the block over and over.
  OnDevice(const std::vector<T>& block, std::size_t n) : n_(n) {
    cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(n_, 1) * sizeof(T));
    for (std::size_t i = 0; i < n; i += block.size())
      cudaMemcpy(data_ + i, block.data(), std::min(block.size(), n - i) * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return data_; }
  std::size_t bytes() const { return n_ * sizeof(T); }
  void put(const std::vector<T>& host) const {
    cudaMemcpy(data_, host.data(), n_ * sizeof(T), cudaMemcpyHostToDevice);
    cudaDeviceSynchronize();  // streams that do not wait for the default one would meet a copy under way
  }
  std::vector<T> host() const {
    std::vector<T> out(n_);
    cudaMemcpy(out.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost);
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t n_ = 0;
};

// Sequences with so many new tokens and so long a context each; their blocks lie scattered, and some blocks
// belong to nobody. A context of 0 is a padding sequence.
struct Ragged {
  std::vector<std::int32_t> q_start = {0}, context, table, k_start = {0};
  std::int64_t max_blocks = 1, blocks = 0;
  int max_tokens = 0, max_context = 0;

  Ragged(Rng& rng, const std::vector<std::pair<int, int>>& fresh_and_context) {
    for (const auto& [fresh, length] : fresh_and_context) {
      q_start.push_back(q_start.back() + fresh);
      context.push_back(length);
      k_start.push_back(k_start.back() + length);
      max_blocks = std::max<std::int64_t>(max_blocks, (length + 63) / 64);
      max_tokens = std::max(max_tokens, fresh);
      max_context = std::max(max_context, length);
    }
    blocks = max_blocks * seqs() + 3;
    std::vector<std::int32_t> order(static_cast<std::size_t>(blocks));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
    std::shuffle(order.begin(), order.end(), rng);
    table.assign(order.begin(), order.begin() + max_blocks * seqs());
    for (int s = 0; s < seqs(); ++s)  // entries past the context name no block
      for (std::int64_t b = (context[static_cast<std::size_t>(s)] + 63) / 64; b < max_blocks; ++b)
        table[static_cast<std::size_t>(s * max_blocks + b)] = -1;
  }
  int seqs() const { return static_cast<int>(context.size()); }
  int tokens() const { return q_start.back(); }
  int context_rows() const { return k_start.back(); }
  std::int64_t slot(int seq, int position) const {
    return std::int64_t{table[static_cast<std::size_t>(seq * max_blocks + position / 64)]} * 64 +
           position % 64;
  }
  // Calls f(seq, row of q, last visible key) for every query, -1 where the sequence is padding.
  template <class F>
  void each_query(F f) const {
    for (int s = 0; s < seqs(); ++s)
      for (int t = q_start[static_cast<std::size_t>(s)]; t < q_start[static_cast<std::size_t>(s) + 1]; ++t)
        f(s, t,
          std::max(-1,
                   context[static_cast<std::size_t>(s)] - (q_start[static_cast<std::size_t>(s) + 1] - t)));
  }
  // A cache of rows of `width`: NaN where no context lies.
  std::vector<Bf16> cache(Rng& rng, int width) const {
    std::vector<Bf16> x = nans(static_cast<std::size_t>(blocks * 64 * width));
    for (int s = 0; s < seqs(); ++s)
      for (int p = 0; p < context[static_cast<std::size_t>(s)]; ++p)
        randomise(rng, x.data() + slot(s, p) * width, static_cast<std::size_t>(width));
    return x;
  }
};

struct RaggedOnDevice {
  OnDevice<std::int32_t> q_start, context, table, k_start;
  PagedBatch batch;
  explicit RaggedOnDevice(const Ragged& r)
      : q_start(r.q_start), context(r.context), table(r.table), k_start(r.k_start) {
    batch = {q_start.get(), context.get(), table.get(), r.max_blocks, r.seqs()};
  }
};

// softmax(scale score) value over keys [first, last] in double; zeros where there are none.
template <class Score, class Value>
void formula(int first, int last, int dv, double scale, Score score, Value value_of, double* out) {
  std::fill(out, out + dv, 0.0);
  if (last < first) return;
  std::vector<double> s;
  for (int key = first; key <= last; ++key) s.push_back(scale * score(key));
  const double m = *std::max_element(s.begin(), s.end());
  double sum = 0;
  for (double& x : s) sum += x = std::exp(x - m);
  for (int key = first; key <= last; ++key)
    for (int d = 0; d < dv; ++d) out[d] += s[static_cast<std::size_t>(key - first)] / sum * value_of(key, d);
}

inline double relative_error(const std::vector<Bf16>& out, const std::vector<double>& expected) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(value(out[i])) - expected[i];
    difference += d * d;
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / size);  // NaN in `out` makes it NaN
}

inline std::vector<double> doubles(const std::vector<Bf16>& x) {
  std::vector<double> out;
  for (const Bf16 v : x) out.push_back(static_cast<double>(value(v)));
  return out;
}

struct GqaCase {
  int heads, kv_heads, dim, window;
  float scale;
  std::vector<Bf16> q, cache;
  GqaCase(Rng& rng, const Ragged& b, int h, int kv, int d, int w)
      : heads(h), kv_heads(kv), dim(d), window(w), scale(1.2f / std::sqrt(static_cast<float>(d))) {
    q = random_bf16(rng, static_cast<std::size_t>(b.tokens() * h * d));
    cache = b.cache(rng, 2 * kv * d);
  }
  std::vector<double> expected(const Ragged& b) const {
    std::vector<double> out(q.size());
    b.each_query([&](int s, int t, int last) {
      for (int h = 0; h < heads; ++h) {
        const int kv = h / (heads / kv_heads);
        const Bf16* query = q.data() + (t * heads + h) * dim;
        const auto at = [&](int key, int part) {
          return cache.data() + (b.slot(s, key) * 2 + part) * kv_heads * dim + kv * dim;
        };
        formula(
            window > 0 ? std::max(0, last - window + 1) : 0, last, dim, static_cast<double>(scale),
            [&](int key) {
              double dot = 0;
              for (int i = 0; i < dim; ++i)
                dot += static_cast<double>(value(query[i])) * static_cast<double>(value(at(key, 0)[i]));
              return dot;
            },
            [&](int key, int d) { return static_cast<double>(value(at(key, 1)[d])); },
            out.data() + (t * heads + h) * dim);
      }
    });
    return out;
  }
};

struct ExpandedCase {
  int heads, nope, rope, v;
  float scale;
  std::vector<Bf16> q, kv, k_rope;
  ExpandedCase(Rng& rng, const Ragged& b, int h, int n, int r, int dv)
      : heads(h), nope(n), rope(r), v(dv), scale(1.2f / std::sqrt(static_cast<float>(n + r))) {
    q = random_bf16(rng, static_cast<std::size_t>(b.tokens() * h * (n + r)));
    kv = random_bf16(rng, static_cast<std::size_t>(b.context_rows() * h * (n + dv)));
    k_rope = random_bf16(rng, static_cast<std::size_t>(b.context_rows() * r));
  }
  std::vector<double> expected(const Ragged& b) const {
    std::vector<double> out(static_cast<std::size_t>(b.tokens() * heads * v));
    b.each_query([&](int s, int t, int last) {
      for (int h = 0; h < heads; ++h) {
        const Bf16* query = q.data() + (t * heads + h) * (nope + rope);
        const auto row = [&](int key) { return b.k_start[static_cast<std::size_t>(s)] + key; };
        const auto at = [&](int key) { return kv.data() + (row(key) * heads + h) * (nope + v); };
        formula(
            0, last, v, static_cast<double>(scale),
            [&](int key) {
              double dot = 0;
              for (int i = 0; i < nope + rope; ++i)
                dot += static_cast<double>(value(query[i])) *
                       static_cast<double>(
                           value(i < nope ? at(key)[i]
                                          : k_rope[static_cast<std::size_t>(row(key) * rope + i - nope)]));
              return dot;
            },
            [&](int key, int d) { return static_cast<double>(value(at(key)[nope + d])); },
            out.data() + (t * heads + h) * v);
      }
    });
    return out;
  }
};

// A cache of latents in BF16, or as bytes in FP8, and the values that it stands for.
struct LatentCache {
  static constexpr float kScale = 0x1p-6f;  // of FP8 latents
  int latent, rope;
  std::vector<char> bytes;
  std::vector<float> values;  // [slots, latent + rope]
  LatentCache(Rng& rng, const Ragged& b, int l, int r, bool fp8) : latent(l), rope(r) {
    const std::vector<Bf16> plain = b.cache(rng, l + r);
    for (const Bf16 x : plain) values.push_back(value(x));
    if (!fp8) {
      const char* p = reinterpret_cast<const char*>(plain.data());
      bytes.assign(p, p + plain.size() * sizeof(Bf16));
      return;
    }
    const std::size_t width = static_cast<std::size_t>(l + r), token = static_cast<std::size_t>(l + 2 * r);
    const std::size_t slots = plain.size() / width;
    bytes.resize(slots * token);
    for (std::size_t t = 0; t < slots; ++t) {
      char* at = bytes.data() + t * token;
      for (std::size_t i = 0; i < static_cast<std::size_t>(l); ++i) {
        const __nv_fp8_e4m3 code(values[t * width + i] / kScale);
        std::memcpy(at + i, &code, 1);
        values[t * width + i] = static_cast<float>(code) * kScale;
      }
      std::memcpy(at + l, &plain[t * width + static_cast<std::size_t>(l)], static_cast<std::size_t>(2 * r));
    }
  }
  double at(std::int64_t slot, int i) const {
    return static_cast<double>(values[static_cast<std::size_t>(slot * (latent + rope) + i)]);
  }
};

}  // namespace trireme::cuda::testing_attention
