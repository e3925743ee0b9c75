// Every attention kernel against the formula in double precision, over ragged batches whose unused memory is
// NaN.
#include <gtest/gtest.h>

#include "backends/cuda/attention_gpu_fixture.h"
#include "backends/cuda/sm90/flash_prefill/flash_prefill.h"
#include "backends/cuda/sm90/gqa_decode/gqa_decode.h"

namespace trireme::cuda {
namespace {
using namespace testing_attention;

constexpr double kClose = 6e-3;  // BF16 weights and outputs

class AttentionOnGpu : public GpuTest {};

const std::vector<std::pair<int, int>> kMixed = {{1, 1},   {3, 70},   {1, 700}, {2, 0},
                                                 {75, 75}, {33, 300}, {0, 0},   {1, 64}};

TEST_F(AttentionOnGpu, GenericGqaOfOddSizesAgreesWithTheFormula) {
  const Ragged b(rng, kMixed);
  const RaggedOnDevice d(b);
  struct Shape {
    int heads, kv_heads, dim, window;
  };
  for (const Shape s : {Shape{6, 2, 32, 0}, Shape{4, 4, 80, 0}, Shape{3, 1, 24, 100}, Shape{5, 5, 2, 1},
                        Shape{2, 1, 300, 65}}) {
    const GqaCase c(rng, b, s.heads, s.kv_heads, s.dim, s.window);
    const OnDevice q(c.q), cache(c.cache), out(nans(c.q.size()));
    ASSERT_EQ(gqa_generic({.q = q.get(),
                           .q_stride = c.dim,
                           .batch = d.batch,
                           .cache = cache.get(),
                           .scale = c.scale,
                           .window = c.window,
                           .out = out.get(),
                           .out_stride = c.dim,
                           .tokens = b.tokens(),
                           .heads = c.heads,
                           .kv_heads = c.kv_heads,
                           .dim = c.dim},
                          nullptr),
              cudaSuccess);
    EXPECT_LT(relative_error(out.host(), c.expected(b)), kClose) << "head_dim " << s.dim;
  }
}

TEST_F(AttentionOnGpu, GenericExpandedMlaAgreesWithTheFormula) {
  const Ragged b(rng, kMixed);
  const RaggedOnDevice d(b);
  struct Shape {
    int heads, nope, rope, v;
  };
  for (const Shape s : {Shape{3, 24, 8, 20}, Shape{2, 128, 64, 128}, Shape{1, 16, 0, 600}}) {
    const ExpandedCase c(rng, b, s.heads, s.nope, s.rope, s.v);
    const std::vector<double> expected = c.expected(b);
    const OnDevice q(c.q), kv(c.kv), k_rope(c.k_rope), out(nans(expected.size()));
    ASSERT_EQ(mla_expanded_generic({.q = q.get(),
                                    .q_stride = s.nope + s.rope,
                                    .kv = kv.get(),
                                    .kv_stride = s.nope + s.v,
                                    .k_rope = k_rope.get(),
                                    .k_rope_stride = s.rope,
                                    .batch = d.batch,
                                    .k_start = d.k_start.get(),
                                    .scale = c.scale,
                                    .out = out.get(),
                                    .out_stride = s.v,
                                    .tokens = b.tokens(),
                                    .heads = s.heads,
                                    .nope = s.nope,
                                    .rope = s.rope,
                                    .v = s.v},
                                   nullptr),
              cudaSuccess);
    EXPECT_LT(relative_error(out.host(), expected), kClose) << "nope " << s.nope;
  }
}

TEST_F(AttentionOnGpu, GenericAbsorbedMlaAndGatherAgreeWithTheFormulaInBf16AndFp8) {
  const Ragged b(rng, kMixed);
  const RaggedOnDevice d(b);
  struct Shape {
    int heads, latent, rope;
    bool fp8;
  };
  for (const Shape s : {Shape{3, 80, 16, false}, Shape{2, 512, 64, false}, Shape{2, 512, 64, true},
                        Shape{1, 128, 6, true}, Shape{1, 1024, 2, false}}) {
    const LatentCache c(rng, b, s.latent, s.rope, s.fp8);
    const float scale = 1.2f / std::sqrt(static_cast<float>(s.latent + s.rope));
    // The rope part lies within wider rows, as the layers have it.
    const int rope_stride = s.rope + 10;
    const auto q_latent = random_bf16(rng, static_cast<std::size_t>(b.tokens() * s.heads * s.latent));
    const auto q_rope = random_bf16(rng, static_cast<std::size_t>(b.tokens() * s.heads * rope_stride));
    std::vector<double> expected(q_latent.size());
    b.each_query([&](int seq, int t, int last) {
      for (int h = 0; h < s.heads; ++h) {
        const int row = t * s.heads + h;
        formula(
            0, last, s.latent, static_cast<double>(scale),
            [&](int key) {
              double dot = 0;
              for (int i = 0; i < s.latent + s.rope; ++i) {
                const Bf16 x = i < s.latent
                                   ? q_latent[static_cast<std::size_t>(row * s.latent + i)]
                                   : q_rope[static_cast<std::size_t>(row * rope_stride + i - s.latent)];
                dot += static_cast<double>(value(x)) * c.at(b.slot(seq, key), i);
              }
              return dot;
            },
            [&](int key, int i) { return c.at(b.slot(seq, key), i); }, expected.data() + row * s.latent);
      }
    });
    const OnDevice ql(q_latent), qr(q_rope), out(nans(q_latent.size()));
    const OnDevice cache(c.bytes);
    ASSERT_EQ(mla_absorbed_generic({.q_latent = ql.get(),
                                    .q_latent_stride = s.latent,
                                    .q_rope = qr.get(),
                                    .q_rope_stride = rope_stride,
                                    .batch = d.batch,
                                    .cache = cache.get(),
                                    .fp8 = s.fp8,
                                    .latent_scale = LatentCache::kScale,
                                    .scale = scale,
                                    .out = out.get(),
                                    .out_stride = s.latent,
                                    .tokens = b.tokens(),
                                    .heads = s.heads,
                                    .latent = s.latent,
                                    .rope = s.rope},
                                   nullptr),
              cudaSuccess);
    EXPECT_LT(relative_error(out.host(), expected), kClose) << "latent " << s.latent << " fp8 " << s.fp8;

    const int rows = b.context_rows() + 2;
    const OnDevice latents(nans(static_cast<std::size_t>(rows * s.latent))),
        ropes(nans(static_cast<std::size_t>(rows * s.rope)));
    ASSERT_EQ(mla_gather_kernel({.batch = d.batch,
                                 .k_start = d.k_start.get(),
                                 .cache = cache.get(),
                                 .fp8 = s.fp8,
                                 .latent_scale = LatentCache::kScale,
                                 .latent_out = latents.get(),
                                 .latent_stride = s.latent,
                                 .rope_out = ropes.get(),
                                 .rope_stride = s.rope,
                                 .rows = rows,
                                 .latent = s.latent,
                                 .rope = s.rope},
                                nullptr),
              cudaSuccess);
    const auto got_latent = latents.host(), got_rope = ropes.host();
    int wrong = 0;
    for (int seq = 0; seq < b.seqs(); ++seq) {
      for (int p = 0; p < b.context[static_cast<std::size_t>(seq)]; ++p) {
        const int row = b.k_start[static_cast<std::size_t>(seq)] + p;
        for (int i = 0; i < s.latent + s.rope; ++i) {
          const Bf16 got = i < s.latent ? got_latent[static_cast<std::size_t>(row * s.latent + i)]
                                        : got_rope[static_cast<std::size_t>(row * s.rope + i - s.latent)];
          const Bf16 want = __float2bfloat16(static_cast<float>(c.at(b.slot(seq, p), i)));
          wrong += value(got) == value(want) ? 0 : 1;
        }
      }
    }
    EXPECT_EQ(wrong, 0) << "gathered values";
    for (int i = 0; i < 2 * s.latent; ++i)
      EXPECT_EQ(value(got_latent[static_cast<std::size_t>(b.context_rows() * s.latent + i)]), 0.0f);
  }
}

TEST_F(AttentionOnGpu, GqaDecodeAgreesWithTheFormulaHoweverManyUnitsShareIt) {
  // The sequence of 20 new tokens is not for this kernel: its rows stay as they were.
  const std::vector<std::pair<int, int>> sequences = {{1, 1},   {1, 700}, {2, 0},  {3, 70},   {8, 333},
                                                      {20, 90}, {0, 0},   {1, 64}, {2, 1500}, {1, 65}};
  const Ragged b(rng, sequences);
  const RaggedOnDevice d(b);
  struct Shape {
    int heads, kv_heads, dim, window;
  };
  for (const Shape s : {Shape{8, 2, 128, 0}, Shape{8, 2, 128, 100}, Shape{3, 3, 64, 0}, Shape{6, 1, 64, 1},
                        Shape{10, 2, 80, 70}, Shape{7, 1, 96, 0}, Shape{16, 1, 128, 0}, Shape{4, 1, 128, 90},
                        Shape{16, 2, 64, 0}, Shape{4, 2, 256, 640}}) {
    const GqaCase c(rng, b, s.heads, s.kv_heads, s.dim, s.window);
    const std::vector<double> expected = c.expected(b);
    const OnDevice q(c.q), cache(c.cache), out(nans(c.q.size()));
    for (const int sms : {1, 3, 132}) {
      out.put(nans(c.q.size()));
      GqaDecodeArgs a = {.q = q.get(),
                         .q_stride = c.dim,
                         .batch = d.batch,
                         .max_tokens = 8,
                         .max_context = 2048,
                         .cache = cache.get(),
                         .scale = c.scale,
                         .window = c.window,
                         .out = out.get(),
                         .out_stride = c.dim,
                         .tokens = b.tokens(),
                         .heads = c.heads,
                         .kv_heads = c.kv_heads,
                         .dim = c.dim,
                         .sms = sms};
      ASSERT_TRUE(gqa_decode_supports(c.dim, c.heads, c.kv_heads, a.max_tokens, b.seqs()));
      const OnDevice workspace(
          std::vector<char>(static_cast<std::size_t>(gqa_decode_workspace_bytes(a)), -1));
      a.workspace = workspace.get();
      ASSERT_EQ(gqa_decode(a, nullptr), cudaSuccess);
      std::vector<Bf16> got = out.host();
      const auto row = static_cast<std::size_t>(c.heads * c.dim);
      for (std::size_t i = 15 * row; i < 35 * row; ++i) {
        ASSERT_TRUE(std::isnan(value(got[i])));
        got[i] = __float2bfloat16(static_cast<float>(expected[i]));
      }
      EXPECT_LT(relative_error(got, expected), kClose)
          << "head_dim " << s.dim << ", " << sms << " multiprocessors, window " << s.window;
    }
  }
}

// Sequences of fewer than 9 new tokens (rows 346 to 352 here) are not the prefill kernels'.
const std::vector<std::pair<int, int>> kPrefill = {{130, 130}, {200, 777}, {16, 16},   {3, 50},     {4, 0},
                                                   {140, 0},   {0, 0},     {128, 128}, {257, 1000}, {9, 300}};
constexpr std::size_t kSkipped = 346, kSkippedEnd = 353;

// The error over all rows but the skipped ones, which must be untouched.
double prefill_error(std::vector<Bf16> got, const std::vector<double>& expected, std::size_t row) {
  for (std::size_t i = kSkipped * row; i < kSkippedEnd * row; ++i) {
    if (!std::isnan(value(got[i]))) return 1e9;
    got[i] = __float2bfloat16(static_cast<float>(expected[i]));
  }
  return relative_error(got, expected);
}

// On 132 multiprocessors a CTA has one tile; on fewer it has several.
constexpr int kChips[] = {1, 5, 132};
const std::vector<unsigned> kAnyCount = {12345};

TEST_F(AttentionOnGpu, FlashGqaAgreesWithTheFormula) {
  const Ragged b(rng, kPrefill);
  const RaggedOnDevice d(b);
  struct Shape {
    int heads, kv_heads, dim, window;
  };
  for (const Shape s : {Shape{2, 1, 128, 0}, Shape{3, 3, 64, 0}, Shape{2, 2, 128, 100}, Shape{1, 1, 64, 1},
                        Shape{2, 1, 128, 400}}) {
    const GqaCase c(rng, b, s.heads, s.kv_heads, s.dim, s.window);
    const OnDevice q(c.q), cache(c.cache), out(nans(c.q.size()));
    const OnDevice counter(kAnyCount);
    const std::vector<double> expected = c.expected(b);
    for (const int sms : kChips) {
      out.put(nans(c.q.size()));
      ASSERT_EQ(flash_gqa({.seqs = {.batch = d.batch,
                                    .min_tokens = 9,
                                    .tokens = b.tokens(),
                                    .sms = sms,
                                    .counter = counter.get()},
                           .q = q.get(),
                           .q_stride = c.dim,
                           .cache = cache.get(),
                           .blocks = b.blocks,
                           .scale = c.scale,
                           .window = c.window,
                           .out = out.get(),
                           .out_stride = c.dim,
                           .heads = c.heads,
                           .kv_heads = c.kv_heads,
                           .dim = c.dim},
                          nullptr),
                cudaSuccess);
      EXPECT_LT(prefill_error(out.host(), expected, static_cast<std::size_t>(c.heads * c.dim)), kClose)
          << "head_dim " << s.dim << ", window " << s.window << ", " << sms << " multiprocessors";
    }
  }
}

TEST_F(AttentionOnGpu, FlashMlaAgreesWithTheFormula) {
  const Ragged b(rng, kPrefill);
  const RaggedOnDevice d(b);
  ExpandedCase c(rng, b, 2, 128, 64, 128);
  const std::vector<double> expected = c.expected(b);
  const int rows = b.context_rows() + 100;  // past the contexts lies nothing of use
  c.kv.resize(static_cast<std::size_t>(rows * c.heads * 256), __float2bfloat16(NAN));
  c.k_rope.resize(static_cast<std::size_t>(rows * 64), __float2bfloat16(NAN));
  const OnDevice q(c.q), kv(c.kv), k_rope(c.k_rope), out(nans(expected.size()));
  const OnDevice counter(kAnyCount);
  for (const int sms : kChips) {
    out.put(nans(expected.size()));
    ASSERT_EQ(flash_mla({.seqs = {.batch = d.batch,
                                  .min_tokens = 9,
                                  .tokens = b.tokens(),
                                  .sms = sms,
                                  .counter = counter.get()},
                         .q = q.get(),
                         .kv = kv.get(),
                         .k_rope = k_rope.get(),
                         .k_start = d.k_start.get(),
                         .rows = rows,
                         .scale = c.scale,
                         .out = out.get(),
                         .heads = c.heads},
                        nullptr),
              cudaSuccess);
    EXPECT_LT(prefill_error(out.host(), expected, 256), kClose) << sms << " multiprocessors";
  }
}

TEST_F(AttentionOnGpu, AFlashRowIsTheSameToTheBitInChunksAndBesideOthers) {
  const Ragged all(rng, {{700, 1000}, {130, 300}});
  for (const int window : {0, 150}) {
    const GqaCase c(rng, all, 4, 2, 128, window);
    const OnDevice q(c.q), cache(c.cache), out(nans(c.q.size()));
    const OnDevice counter(kAnyCount);
    const std::size_t row = static_cast<std::size_t>(c.heads * c.dim);
    const auto run = [&](const Ragged& b, int first) {
      const RaggedOnDevice d(b);
      EXPECT_EQ(
          flash_gqa({.seqs = {.batch = d.batch, .tokens = b.tokens(), .sms = 132, .counter = counter.get()},
                     .q = q.get() + static_cast<std::size_t>(first) * row,
                     .q_stride = c.dim,
                     .cache = cache.get(),
                     .blocks = all.blocks,
                     .scale = c.scale,
                     .window = window,
                     .out = out.get() + static_cast<std::size_t>(first) * row,
                     .out_stride = c.dim,
                     .heads = c.heads,
                     .kv_heads = c.kv_heads,
                     .dim = c.dim},
                    nullptr),
          cudaSuccess);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    };
    run(all, 0);
    const std::vector<Bf16> whole = out.host();
    out.put(nans(c.q.size()));
    for (int begin = 0; begin < 700; begin += 97) {
      Ragged part = all;
      const int end = std::min(700, begin + 97);
      part.q_start = {0, end - begin};
      part.context = {300 + end};
      part.table.resize(static_cast<std::size_t>(part.max_blocks));
      run(part, begin);
    }
    const std::vector<Bf16> chunks = out.host();
    EXPECT_EQ(std::memcmp(whole.data(), chunks.data(), 700 * row * sizeof(Bf16)), 0) << "window " << window;
  }
}

}  // namespace
}  // namespace trireme::cuda
