// The bound operations: whichever kernel they choose agrees with the generic one, plans and recorded graphs
// included.
#include "backends/cuda/attention.h"

#include "backends/cuda/attention_test_util.h"
#include "backends/cuda/glue_test_util.h"

namespace trireme::cuda {
namespace {
using namespace testing_attention;
using testing_glue::gpu_stream;

constexpr double kClose = 6e-3;

SeqBatch bounded(const Ragged& r, const RaggedOnDevice& d) {
  const auto n = static_cast<std::size_t>(r.seqs());
  SeqBatch s;
  s.q_start = {d.q_start.get(), n + 1};
  s.context_len = {d.context.get(), n};
  s.block_table = {d.table.get(), r.table.size()};
  s.max_blocks = r.max_blocks;
  s.max_tokens = r.max_tokens;
  s.max_context = r.max_context;
  return s;
}
template <class T>
View view(const OnDevice<T>& x, Shape shape) {
  return View(x.get(), DType::kBF16, shape);
}
KvLayout gqa_layout(const GqaCase& c) {
  KvLayout l;
  l.kind = KvLayout::Kind::kGqa;
  l.kv_heads = c.kv_heads;
  l.head_dim = c.dim;
  return l;
}
cudaStream_t raw() { return handle_of(*gpu_stream()); }

std::vector<double> generic(const GqaCase& c, const Ragged& b, const RaggedOnDevice& d, const void* q,
                            const void* cache) {
  const OnDevice out(nans(c.q.size()));
  EXPECT_EQ(gqa_generic({.q = q,
                         .q_stride = c.dim,
                         .batch = d.batch,
                         .cache = cache,
                         .scale = c.scale,
                         .window = c.window,
                         .out = out.get(),
                         .out_stride = c.dim,
                         .tokens = b.tokens(),
                         .heads = c.heads,
                         .kv_heads = c.kv_heads,
                         .dim = c.dim},
                        raw()),
            cudaSuccess);
  testing_glue::done();
  return doubles(out.host());
}

TEST(AttentionOps, GqaOfMixedBatchesAgreesWithTheGenericKernel) {
  NEED_GPU();
  Rng& rng = testing_glue::rng();
  const Ragged mixed(rng, {{1, 3000}, {300, 700}, {8, 90}, {9, 9}, {2, 0}, {1, 1}, {1024, 1024}});
  const Ragged few(rng, {{1, 3000}, {4, 700}, {1, 0}, {8, 90}});
  const Ragged one(rng, {{700, 1900}});
  for (const Ragged* b : {&mixed, &few, &one}) {
    const RaggedOnDevice d(*b);
    for (const int dim : {64, 72, 128}) {
      for (const int window : {0, 500}) {
        const GqaCase c(rng, *b, 8, 2, dim, window);
        const OnDevice q(c.q), cache(c.cache), out(nans(c.q.size()));
        const Shape shape{b->tokens(), c.heads, dim};
        EXPECT_OK(gqa_attention({.q = view(q, shape),
                                 .seqs = bounded(*b, d),
                                 .cache = {gqa_layout(c), cache.get(), b->blocks},
                                 .scale = c.scale,
                                 .window = window,
                                 .out = view(out, shape)},
                                *gpu_stream()));
        EXPECT_LT(relative_error(out.host(), generic(c, *b, d, q.get(), cache.get())), kClose)
            << "head_dim " << dim << ", window " << window << ", " << b->seqs() << " sequences";
      }
    }
  }
}

TEST(AttentionOps, AbsorbedMlaAgreesWithTheGenericKernelPlannedOrNot) {
  NEED_GPU();
  Rng& rng = testing_glue::rng();
  const Ragged b(rng, {{1, 3000}, {60, 700}, {2, 90}, {1, 1}, {1, 128}, {1, 0}});
  const RaggedOnDevice d(b);
  for (const int heads : {16, 128}) {
    for (const bool fp8 : {false, true}) {
      const LatentCache c(rng, b, 512, 64, fp8);
      const std::size_t rows = static_cast<std::size_t>(b.tokens() * heads);
      const OnDevice q_latent(random_bf16(rng, rows * 512)), q(random_bf16(rng, rows * 192)),
          out(nans(rows * 512)), expected(nans(rows * 512));
      const OnDevice cache(c.bytes);
      ASSERT_EQ(mla_absorbed_generic({.q_latent = q_latent.get(),
                                      .q_latent_stride = 512,
                                      .q_rope = q.get() + 128,
                                      .q_rope_stride = 192,
                                      .batch = d.batch,
                                      .cache = cache.get(),
                                      .fp8 = fp8,
                                      .latent_scale = LatentCache::kScale,
                                      .scale = 0.06f,
                                      .out = expected.get(),
                                      .out_stride = 512,
                                      .tokens = b.tokens(),
                                      .heads = heads,
                                      .latent = 512,
                                      .rope = 64},
                                     raw()),
                cudaSuccess);
      KvLayout layout;
      layout.dtype = fp8 ? DType::kF8E4M3 : DType::kBF16;
      layout.latent_dim = 512;
      layout.rope_dim = 64;
      MlaAbsorbedArgs a = {.q_latent = view(q_latent, {b.tokens(), heads, 512}),
                           .q_rope = View(q.get() + 128, DType::kBF16, {b.tokens(), heads, 64}, 192),
                           .seqs = bounded(b, d),
                           .cache = {layout, cache.get(), b.blocks, LatentCache::kScale},
                           .scale = 0.06f,
                           .out = view(out, {b.tokens(), heads, 512})};
      PlanAttentionArgs p{
          .seqs = a.seqs, .layout = layout, .tokens = b.tokens(), .heads = heads, .plan = nullptr};
      const CudaDevice& device = cuda_stream(*gpu_stream()).device();
      const OnDevice plan(std::vector<char>(static_cast<std::size_t>(attention_plan_bytes(p, device))));
      EXPECT_GT(plan.bytes(), 0u);
      std::vector<double> want = doubles(expected.host());
      for (const bool planned : {false, true}) {
        out.put(nans(rows * 512));
        if (planned) {
          p.plan = plan.get();
          EXPECT_OK(plan_attention(p, *gpu_stream()));
          a.seqs.plan = plan.get();
        }
        EXPECT_OK(mla_absorbed(a, *gpu_stream()));
        testing_glue::done();
        std::vector<Bf16> got = out.host();
        got.resize(rows * 512 - static_cast<std::size_t>(heads * 512));  // the padding sequence's row
        want.resize(got.size());
        // Over an FP8 cache q and the probabilities are e4m3 too; the generic kernel multiplies in float32.
        EXPECT_LT(relative_error(got, want), fp8 ? 5e-2 : 1e-2)
            << heads << " heads, fp8 " << fp8 << ", planned " << planned;
      }
    }
  }
}

TEST(AttentionOps, ExpandedMlaAgreesWithTheGenericKernel) {
  NEED_GPU();
  Rng& rng = testing_glue::rng();
  const Ragged b(rng, {{1, 300}, {200, 700}, {64, 64}, {1, 1}, {2, 0}});
  const RaggedOnDevice d(b);
  for (const int v : {128, 64}) {
    const ExpandedCase c(rng, b, 16, 128, 64, v);
    const std::size_t size = static_cast<std::size_t>(b.tokens() * c.heads * v);
    const OnDevice q(c.q), kv(c.kv), k_rope(c.k_rope), out(nans(size)), expected(nans(size));
    ASSERT_EQ(mla_expanded_generic({.q = q.get(),
                                    .q_stride = 192,
                                    .kv = kv.get(),
                                    .kv_stride = 128 + v,
                                    .k_rope = k_rope.get(),
                                    .k_rope_stride = 64,
                                    .batch = d.batch,
                                    .k_start = d.k_start.get(),
                                    .scale = c.scale,
                                    .out = expected.get(),
                                    .out_stride = v,
                                    .tokens = b.tokens(),
                                    .heads = c.heads,
                                    .nope = 128,
                                    .rope = 64,
                                    .v = v},
                                   raw()),
              cudaSuccess);
    EXPECT_OK(mla_expanded({.q = view(q, {b.tokens(), c.heads, 192}),
                            .kv = view(kv, {b.context_rows(), c.heads, 128 + v}),
                            .k_rope = view(k_rope, {b.context_rows(), 64}),
                            .nope = 128,
                            .v = v,
                            .seqs = bounded(b, d),
                            .k_start = {d.k_start.get(), b.k_start.size()},
                            .scale = c.scale,
                            .out = view(out, {b.tokens(), c.heads, v})},
                           *gpu_stream()));
    testing_glue::done();
    EXPECT_LT(relative_error(out.host(), doubles(expected.host())), kClose) << "values of " << v;
  }
}

TEST(AttentionOps, ExpandedMlaMultipliesInFp8WhereItMay) {
  NEED_GPU();
  Rng& rng = testing_glue::rng();
  const Ragged b(rng, {{1, 300}, {200, 700}, {64, 64}, {1, 1}, {2, 0}});
  const RaggedOnDevice d(b);
  for (const int v : {128, 64}) {
    const ExpandedCase c(rng, b, 16, 128, 64, v);
    const std::size_t size = static_cast<std::size_t>(b.tokens() * c.heads * v);
    const OnDevice q(c.q), kv(c.kv), k_rope(c.k_rope), out(nans(size)), plain(nans(size));
    MlaExpandedArgs a = {.q = view(q, {b.tokens(), c.heads, 192}),
                         .kv = view(kv, {b.context_rows(), c.heads, 128 + v}),
                         .k_rope = view(k_rope, {b.context_rows(), 64}),
                         .nope = 128,
                         .v = v,
                         .seqs = bounded(b, d),
                         .k_start = {d.k_start.get(), b.k_start.size()},
                         .scale = c.scale,
                         .out = view(plain, {b.tokens(), c.heads, v})};
    EXPECT_EQ(mla_expanded_room_bytes(a), 0);
    EXPECT_OK(mla_expanded(a, *gpu_stream()));
    a.out = view(out, {b.tokens(), c.heads, v});
    a.fp8 = {.k_scale = 0x1p-6f, .v_scale = 0x1p-6f};
    const i64 bytes = mla_expanded_room_bytes(a);
    EXPECT_EQ(bytes > 0, v == 128);
    const OnDevice room(std::vector<char>(static_cast<std::size_t>(bytes + 256), -1));
    if (bytes > 0) a.fp8.room = View(room.get(), DType::kU8, {bytes});
    EXPECT_OK(mla_expanded(a, *gpu_stream()));
    testing_glue::done();
    EXPECT_LT(relative_error(out.host(), doubles(plain.host())), v == 128 ? 6e-2 : kClose)
        << "values of " << v;
    if (bytes == 0) continue;
    const auto refused = [&](float k_scale, const View& given) {
      MlaExpandedArgs other = a;
      other.fp8 = {.k_scale = k_scale, .v_scale = 0x1p-6f, .room = given};
      return !mla_expanded(other, *gpu_stream());
    };
    EXPECT_TRUE(refused(0.3f, a.fp8.room));
    EXPECT_TRUE(refused(0x1p-6f, {}));
    EXPECT_TRUE(refused(0x1p-6f, View(room.get(), DType::kU8, {bytes - 1})));
    EXPECT_TRUE(refused(0x1p-6f, View(room.get() + 64, DType::kU8, {bytes})));
  }
}

TEST(AttentionOps, ARecordedDecodeFollowsTheLengthsOnTheDevice) {
  NEED_GPU();
  Rng& rng = testing_glue::rng();
  const Ragged b(rng, {{1, 900}, {1, 64}, {1, 300}, {1, 2000}});
  Ragged shorter = b;
  shorter.context = {100, 64, 0, 1300};
  const RaggedOnDevice d(b);
  const GqaCase c(rng, b, 8, 2, 128, 0);
  const OnDevice q(c.q), cache(c.cache), out(nans(c.q.size()));
  const Shape shape{b.tokens(), c.heads, c.dim};
  SeqBatch seqs = bounded(b, d);
  seqs.max_context = 4096;
  const GqaAttentionArgs a = {.q = view(q, shape),
                              .seqs = seqs,
                              .cache = {gqa_layout(c), cache.get(), b.blocks},
                              .scale = c.scale,
                              .window = 0,
                              .out = view(out, shape)};
  EXPECT_OK(gqa_attention(a, *gpu_stream()));
  auto graph = cuda_stream(*gpu_stream()).device().capture(*gpu_stream(), [&] {
    return gqa_attention(a, *gpu_stream());
  });
  ASSERT_TRUE(graph);
  for (const Ragged* now : {static_cast<const Ragged*>(&shorter), &b}) {
    d.context.put(now->context);
    out.put(nans(c.q.size()));
    EXPECT_OK((*graph)->launch(*gpu_stream()));
    testing_glue::done();
    EXPECT_LT(relative_error(out.host(), generic(c, b, d, q.get(), cache.get())), kClose);
  }
}

TEST(AttentionOps, WhatNoKernelTakesIsRefusedByName) {
  NEED_GPU();
  Rng& rng = testing_glue::rng();
  const Ragged b(rng, {{1, 10}});
  const RaggedOnDevice d(b);
  const OnDevice x(nans(4096));
  const auto run = [&](KvLayout l, i64 dim, DType act) {
    const View v(x.get(), act, {1, 2, dim});
    return gqa_attention(
        {.q = v, .seqs = bounded(b, d), .cache = {l, x.get(), b.blocks}, .scale = 1, .window = 0, .out = v},
        *gpu_stream());
  };
  KvLayout l;
  l.kind = KvLayout::Kind::kGqa;
  l.kv_heads = 2;
  l.head_dim = 64;
  EXPECT_FALSE(run(l, 64, DType::kF32));
  EXPECT_FALSE(run(l, 32, DType::kBF16));
  l.dtype = DType::kF8E4M3;
  EXPECT_FALSE(run(l, 64, DType::kBF16));
  l.dtype = DType::kBF16;
  l.head_dim = 63;
  EXPECT_FALSE(run(l, 63, DType::kBF16));
  l.head_dim = 64;
  l.kv_heads = 3;
  EXPECT_FALSE(run(l, 64, DType::kBF16));
  l.kind = KvLayout::Kind::kMla;
  EXPECT_FALSE(run(l, 64, DType::kBF16));
}

}  // namespace
}  // namespace trireme::cuda
