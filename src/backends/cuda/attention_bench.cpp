// Times the attention kernels: attention_bench [gqa-decode|mla-gather|prefill]; everything by default.
// Medians over repeats with the L2 cache flushed between them.
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "backends/cuda/attention_test_util.h"
#include "backends/cuda/sm90/flash_prefill_fp8/flash_prefill_fp8.h"
#include "backends/cuda/sm90/gqa_decode/gqa_decode.h"

namespace trireme::cuda {
namespace {
using namespace testing_attention;

// Random BF16 of any size on the device: a block of random values, repeated.
OnDevice<Bf16> much(Rng& rng, std::size_t n) {
  return OnDevice<Bf16>(random_bf16(rng, std::min<std::size_t>(n, 1 << 20)), n);
}

double median_us(const std::function<cudaError_t()>& work, int repeats = 15) {
  static const OnDevice<char> flush(std::vector<char>(256 << 20));
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < repeats + 2; ++i) {
    cudaMemsetAsync(flush.get(), i, flush.bytes());
    cudaEventRecord(begin);
    if (const cudaError_t e = work(); e != cudaSuccess) std::printf("failed: %s\n", cudaGetErrorString(e));
    cudaEventRecord(end);
    if (const cudaError_t e = cudaEventSynchronize(end); e != cudaSuccess) {
      std::printf("failed: %s\n", cudaGetErrorString(e));
      return 0;
    }
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return static_cast<double>(times[times.size() / 2]) * 1000;
}

int multiprocessors() {
  int n = 0;
  cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0);
  return n;
}

void gqa_decode_bench(Rng& rng) {
  struct Case {
    const char* name;
    int seqs, context, fresh, heads, kv_heads, dim;
    bool ragged;
  };
  for (const Case c :
       {Case{"Llama-8B", 64, 4096, 1, 32, 8, 128, false},
        Case{"Llama-8B ragged", 64, 8192, 1, 32, 8, 128, true},
        Case{"Llama-8B", 1, 32768, 1, 32, 8, 128, false}, Case{"Llama-8B", 1, 2048, 1, 32, 8, 128, false},
        Case{"Llama-8B", 1, 64, 1, 32, 8, 128, false}, Case{"Llama-8B", 8, 4096, 1, 32, 8, 128, false},
        Case{"Llama-8B", 256, 1024, 1, 32, 8, 128, false},
        Case{"Llama-8B 4 tokens", 64, 4096, 4, 32, 8, 128, false},
        Case{"Llama-8B 8 tokens", 64, 4096, 8, 32, 8, 128, false},
        Case{"Llama-70B", 64, 4096, 1, 64, 8, 128, false}, Case{"d64", 64, 4096, 1, 32, 8, 64, false},
        Case{"d256", 32, 4096, 1, 16, 4, 256, false}}) {
    std::vector<std::pair<int, int>> sequences;
    std::int64_t keys = 0;
    for (int s = 0; s < c.seqs; ++s) {
      const int context =
          c.ragged ? 1 + static_cast<int>(rng() % static_cast<std::uint64_t>(c.context)) : c.context;
      sequences.emplace_back(c.fresh, std::max(context, c.fresh));
      keys += sequences.back().second;
    }
    const Ragged b(rng, sequences);
    const RaggedOnDevice d(b);
    const OnDevice q(random_bf16(rng, static_cast<std::size_t>(b.tokens() * c.heads * c.dim))),
        out(nans(static_cast<std::size_t>(b.tokens() * c.heads * c.dim)));
    const OnDevice<Bf16> cache = much(rng, static_cast<std::size_t>(b.blocks * 64 * 2 * c.kv_heads * c.dim));
    GqaDecodeArgs a = {.q = q.get(),
                       .q_stride = c.dim,
                       .batch = d.batch,
                       .max_tokens = c.fresh,
                       .max_context = c.context,
                       .cache = cache.get(),
                       .scale = 0.09f,
                       .window = 0,
                       .out = out.get(),
                       .out_stride = c.dim,
                       .tokens = b.tokens(),
                       .heads = c.heads,
                       .kv_heads = c.kv_heads,
                       .dim = c.dim,
                       .sms = multiprocessors()};
    const OnDevice workspace(std::vector<char>(static_cast<std::size_t>(gqa_decode_workspace_bytes(a))));
    a.workspace = workspace.get();
    const double us = median_us([&] { return gqa_decode(a, nullptr); });
    // As the layers of a model follow each other: every call with a cache of its own, nothing flushed.
    constexpr int kCalls = 32;
    const std::size_t each = cache.bytes() / sizeof(Bf16);
    const int layers =
        static_cast<int>(std::clamp<std::size_t>((std::size_t{1} << 30) / cache.bytes(), 1, kCalls));
    const OnDevice<Bf16> stack = much(rng, each * static_cast<std::size_t>(layers));
    const double in_layers = median_us(
                                 [&] {
                                   for (int i = 0; i < kCalls; ++i) {
                                     a.cache = stack.get() + each * static_cast<std::size_t>(i % layers);
                                     if (const cudaError_t e = gqa_decode(a, nullptr); e != cudaSuccess)
                                       return e;
                                   }
                                   return cudaSuccess;
                                 },
                                 5) /
                             kCalls;
    const double bytes = static_cast<double>(keys) * 4 * c.kv_heads * c.dim;
    std::printf(
        "gqa_decode %-18s batch %3d context %5d new %d: %8.1f us %6.0f GB/s; in a row %8.1f us %6.0f GB/s\n",
        c.name, c.seqs, c.context, c.fresh, us, bytes / us / 1e3, in_layers, bytes / in_layers / 1e3);
  }
}

void gather_bench(Rng& rng) {
  for (const auto& [seqs, context] : {std::pair{1, 16384}, std::pair{16, 4096}}) {
    const Ragged b(rng, std::vector<std::pair<int, int>>(static_cast<std::size_t>(seqs), {1, context}));
    const RaggedOnDevice d(b);
    const int rows = b.context_rows();
    const OnDevice latent(nans(static_cast<std::size_t>(rows) * 512)),
        rope(nans(static_cast<std::size_t>(rows) * 64));
    const OnDevice<Bf16> cache = much(rng, static_cast<std::size_t>(b.blocks * 64 * 576));
    for (const bool fp8 : {false, true}) {
      const double us = median_us([&] {
        return mla_gather_kernel({.batch = d.batch,
                                  .k_start = d.k_start.get(),
                                  .cache = cache.get(),
                                  .fp8 = fp8,
                                  .latent_out = latent.get(),
                                  .latent_stride = 512,
                                  .rope_out = rope.get(),
                                  .rope_stride = 64,
                                  .rows = rows,
                                  .latent = 512,
                                  .rope = 64},
                                 nullptr);
      });
      const double bytes = static_cast<double>(rows) * ((fp8 ? 640 : 1152) + 1152);
      std::printf("mla_gather %s %2d x %5d: %8.1f us %6.0f GB/s\n", fp8 ? "fp8 " : "bf16", seqs, context, us,
                  bytes / us / 1e3);
    }
  }
}

// Multiplications and additions of causal attention with `fresh` of `context` tokens new, in units of 1e12.
double causal_tera(double seqs, double fresh, double context, double heads, double dims) {
  return seqs * heads * 2 * dims * fresh * (context - (fresh - 1) / 2) / 1e12;
}

void prefill_bench(Rng& rng) {
  struct Case {
    int seqs, fresh, context;
  };
  for (const Case c :
       {Case{1, 2048, 2048}, Case{1, 4096, 4096}, Case{1, 8192, 8192}, Case{8, 1024, 1024},
        Case{1, 1024, 16384}, Case{8, 128, 2048}, Case{1, 32768, 32768}, Case{1, 512, 33280}}) {
    const Ragged b(rng,
                   std::vector<std::pair<int, int>>(static_cast<std::size_t>(c.seqs), {c.fresh, c.context}));
    const RaggedOnDevice d(b);
    const OnDevice counter(std::vector<unsigned>(1));
    const FlashBatch seqs = {.batch = d.batch,
                             .min_tokens = 9,
                             .tokens = b.tokens(),
                             .sms = multiprocessors(),
                             .counter = counter.get()};
    {
      const int heads = 128;
      const std::int64_t rows = b.context_rows();
      const OnDevice<Bf16> q = much(rng, static_cast<std::size_t>(b.tokens() * heads * 192));
      const OnDevice<Bf16> kv = much(rng, static_cast<std::size_t>(rows * heads * 256));
      const OnDevice<Bf16> k_rope = much(rng, static_cast<std::size_t>(rows * 64));
      const OnDevice out(nans(static_cast<std::size_t>(b.tokens() * heads * 128)));
      const OnDevice<char> room(std::vector<char>(1 << 20),
                                static_cast<std::size_t>(flash_mla_fp8_room_bytes(rows, c.seqs, heads)));
      const FlashMlaArgs a = {.seqs = seqs,
                              .q = q.get(),
                              .kv = kv.get(),
                              .k_rope = k_rope.get(),
                              .k_start = d.k_start.get(),
                              .rows = rows,
                              .scale = 0.135f,
                              .out = out.get(),
                              .heads = heads};
      for (const bool fp8 : {false, true}) {
        const double us = median_us(
            [&] {
              if (!fp8) return flash_mla(a, nullptr);
              return flash_mla_fp8({.mla = a, .k_scale = 0x1p-6f, .v_scale = 0x1p-6f, .room = room.get()},
                                   nullptr);
            },
            7);
        std::printf("%-23s %d x %5d of %5d: %8.1f us %6.0f TFLOPS\n",
                    fp8 ? "flash_mla_fp8 128 heads" : "flash_mla 128 heads", c.seqs, c.fresh, c.context, us,
                    causal_tera(c.seqs, c.fresh, c.context, heads, 320) / us * 1e6);
      }
    }
    for (const int dim : {64, 128}) {
      const int heads = 32, kv_heads = 8;
      const OnDevice<Bf16> q = much(rng, static_cast<std::size_t>(b.tokens() * heads * dim));
      const OnDevice<Bf16> cache = much(rng, static_cast<std::size_t>(b.blocks * 64 * 2 * kv_heads * dim));
      const OnDevice out(nans(static_cast<std::size_t>(b.tokens() * heads * dim)));
      const double us = median_us(
          [&] {
            return flash_gqa({.seqs = seqs,
                              .q = q.get(),
                              .q_stride = dim,
                              .cache = cache.get(),
                              .blocks = b.blocks,
                              .scale = 0.09f,
                              .window = 0,
                              .out = out.get(),
                              .out_stride = dim,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .dim = dim},
                             nullptr);
          },
          7);
      std::printf("flash_gqa 32/8 d%-3d     %d x %5d of %5d: %8.1f us %6.0f TFLOPS\n", dim, c.seqs, c.fresh,
                  c.context, us, causal_tera(c.seqs, c.fresh, c.context, heads, 2 * dim) / us * 1e6);
    }
  }
}

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  trireme::cuda::testing_attention::Rng rng(1);
  const auto wanted = [&](const char* name) { return argc < 2 || std::strcmp(argv[1], name) == 0; };
  if (wanted("gqa-decode")) trireme::cuda::gqa_decode_bench(rng);
  if (wanted("mla-gather")) trireme::cuda::gather_bench(rng);
  if (wanted("prefill")) trireme::cuda::prefill_bench(rng);
}
