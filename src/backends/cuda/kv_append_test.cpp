// Rotary embedding and the writers of the KV cache.
#include "backends/cuda/elementwise.h"
#include "backends/cuda/glue_test_util.h"

namespace trireme::cuda {
namespace {
using namespace testing_glue;

constexpr i64 kPositions = 300;

struct Table {
  i64 dim;
  Both<float> cos_sin;
  explicit Table(i64 d) : dim(d), cos_sin(static_cast<std::size_t>(kPositions * d)) {
    for (i64 p = 0; p < kPositions; ++p)
      for (i64 i = 0; i < d / 2; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(d));
        at(p, i) = static_cast<float>(std::cos(angle));
        at(p, d / 2 + i) = static_cast<float>(std::sin(angle));
      }
    cos_sin.up();
  }
  float& at(i64 p, i64 i) { return cos_sin.host[static_cast<std::size_t>(p * dim + i)]; }
  ConstView view() const { return ConstView(cos_sin.gpu.get(), DType::kF32, {kPositions, dim}); }
};

std::vector<i32> random_positions(i64 tokens) {
  std::vector<i32> p;
  for (i64 t = 0; t < tokens; ++t) p.push_back(below(static_cast<i32>(kPositions)));
  return p;
}

// Different slots in any order; some tokens are not kept.
std::vector<i32> random_slots(i64 tokens, i64 blocks) {
  std::vector<i32> all(static_cast<std::size_t>(blocks * 64));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<i32>(i);
  std::shuffle(all.begin(), all.end(), rng());
  all.resize(static_cast<std::size_t>(tokens));
  if (tokens > 2) all[1] = -1;
  return all;
}

// The rows `heads` of x at `offset`, each rotated in double precision.
void expect_rotated(Rows& got, const std::vector<u16>& before, Table& table,
                    const std::vector<i32>& positions, i64 heads, i64 offset, bool interleaved) {
  const i64 half = table.dim / 2;
  for (i64 r = 0; r < got.rows; ++r) {
    const i64 p = positions[static_cast<std::size_t>(r / heads)];
    const auto was = [&](i64 i) {
      return static_cast<double>(value(before[static_cast<std::size_t>(got.skew + r * got.stride + i)]));
    };
    for (i64 i = 0; i < got.n; ++i) {
      if (i >= offset && i < offset + table.dim) continue;
      ASSERT_EQ(static_cast<double>(got.at(r, i)), was(i)) << "outside the rotated part";
    }
    for (i64 i = 0; i < half; ++i) {
      const i64 a = offset + (interleaved ? 2 * i : i), b = offset + (interleaved ? 2 * i + 1 : i + half);
      const auto c = static_cast<double>(table.at(p, i)), s = static_cast<double>(table.at(p, half + i));
      const double tolerance = 0x1.1p-8 * (std::fabs(was(a)) + std::fabs(was(b))) + 1e-30;
      expect_close(static_cast<double>(got.at(r, a)), was(a) * c - was(b) * s, tolerance, r, a);
      expect_close(static_cast<double>(got.at(r, b)), was(a) * s + was(b) * c, tolerance, r, b);
    }
  }
}

TEST(CudaKvAppend, RopeRotatesInPlace) {
  NEED_GPU();
  struct Case {
    i64 tokens, heads, width, offset, dim, padding, skew;
  };
  for (const Case& c :
       {Case{130, 128, 192, 128, 64, 0, 0}, Case{17, 1, 576, 512, 64, 0, 0}, Case{3, 5, 128, 0, 128, 8, 0},
        Case{4, 3, 24, 4, 20, 0, 0}, Case{7, 2, 81, 0, 80, 0, 1}, Case{2, 300, 64, 0, 64, 0, 0},
        Case{1, 1, 300, 7, 256, 0, 0}}) {
    Table table(c.dim);
    for (const bool interleaved : {true, false}) {
      Rows x(c.tokens * c.heads, c.width, c.padding, c.skew);
      x.randomise();
      const std::vector<u16> before = x.mem.host;
      const Both<i32> positions(random_positions(c.tokens));
      EXPECT_OK(rope({.x = x.view({c.tokens, c.heads, c.width}, x.stride),
                      .offset = c.offset,
                      .dim = c.dim,
                      .positions = positions.in(),
                      .cos_sin = table.view(),
                      .interleaved = interleaved},
                     *gpu_stream()));
      x.down().expect_padding_untouched();
      expect_rotated(x, before, table, positions.host, c.heads, c.offset, interleaved);
    }
  }
}

constexpr float kLatentScale = 0x1p-6f;

struct Cache {
  KvCacheLayer layer;
  Both<u8> mem;
  Cache(KvLayout layout, i64 blocks)
      : mem(static_cast<std::size_t>(blocks * 64 * layout.token_bytes()), 0xff) {
    layout.layers = 1;
    layer = {.layout = layout, .data = mem.gpu.get(), .blocks = blocks, .latent_scale = kLatentScale};
  }
  const u8* token(i32 slot) { return mem.host.data() + slot * layer.layout.token_bytes(); }
  // All but the tokens in these slots is as it was.
  void expect_others_untouched(const std::vector<i32>& slots) {
    std::vector<bool> written(static_cast<std::size_t>(layer.blocks * 64));
    for (const i32 s : slots)
      if (s >= 0) written[static_cast<std::size_t>(s)] = true;
    for (std::size_t s = 0; s < written.size(); ++s)
      for (i64 b = 0; !written[s] && b < layer.layout.token_bytes(); ++b)
        ASSERT_EQ(token(static_cast<i32>(s))[b], 0xff) << "slot " << s << ", byte " << b;
  }
};

KvLayout mla_layout(int latent, int rope, bool fp8) {
  KvLayout l;
  l.kind = KvLayout::Kind::kMla;
  l.dtype = fp8 ? DType::kF8E4M3 : DType::kBF16;
  l.latent_dim = latent;
  l.rope_dim = rope;
  return l;
}

void expect_mla_tokens(Cache& cache, const std::vector<i32>& slots, Rows& latent, Rows& key) {
  for (std::size_t t = 0; t < slots.size(); ++t) {
    if (slots[t] < 0) continue;
    const u8* at = cache.token(slots[t]);
    const auto r = static_cast<i64>(t);
    if (cache.layer.layout.dtype == DType::kF8E4M3) {
      for (i64 i = 0; i < latent.n; ++i)
        ASSERT_EQ(at[i], float_to_f8e4m3(latent.at(r, i) / kLatentScale)) << "token " << t << ", value " << i;
      at += latent.n;
    } else {
      ASSERT_EQ(std::memcmp(at, &latent.bits(r, 0), static_cast<std::size_t>(latent.n) * 2), 0) << t;
      at += latent.n * 2;
    }
    ASSERT_EQ(std::memcmp(at, &key.bits(r, 0), static_cast<std::size_t>(key.n) * 2), 0) << "token " << t;
  }
}

struct MlaCase {
  i64 tokens;
  int heads, nope, latent, rope;
  bool fp8, interleaved;
};
const MlaCase kMlaCases[] = {
    {130, 128, 128, 512, 64, false, true}, {130, 128, 128, 512, 64, true, true},
    {1, 16, 128, 512, 64, true, false},    {17, 3, 24, 80, 24, false, true},
    {3, 2, 32, 128, 20, true, true},       {5, 2, 13, 36, 6, false, false},
    {7, 1, 64, 1024, 32, true, true},      {4, 4, 16, 256, 16, false, false},
};

TEST(CudaKvAppend, MlaTokens) {
  NEED_GPU();
  for (const MlaCase& c : kMlaCases) {
    Cache cache(mla_layout(c.latent, c.rope, c.fp8), 5);
    Rows latent(c.tokens, c.latent), key(c.tokens, c.rope, 8);
    latent.randomise(2);
    key.randomise();
    const Both<i32> slots(random_slots(c.tokens, 5));
    EXPECT_OK(
        mla_append({.latent = latent.view(), .rope = key.view(), .slots = slots.in(), .cache = cache.layer},
                   *gpu_stream()));
    cache.mem.down();
    cache.expect_others_untouched(slots.host);
    expect_mla_tokens(cache, slots.host, latent, key);
  }
}

TEST(CudaKvAppend, MlaRopeAppendGivesTheBitsOfItsParts) {
  NEED_GPU();
  for (const MlaCase& c : kMlaCases) {
    const i64 width = c.nope + c.rope;
    Table table(c.rope);
    Rows q(c.tokens * c.heads, width), kv_a(c.tokens, c.latent + c.rope, c.tokens % 2 * 8),
        latent(c.tokens, c.latent);
    q.randomise();
    kv_a.randomise(2);
    std::vector<float> w;
    for (int i = 0; i < c.latent; ++i) w.push_back(normal());
    const Both<float> weight(w);
    const ConstView norm(weight.gpu.get(), DType::kF32, {c.latent});
    const Both<i32> slots(random_slots(c.tokens, 5)), positions(random_positions(c.tokens));
    Cache fused(mla_layout(c.latent, c.rope, c.fp8), 5), parts(fused.layer.layout, 5);
    const std::vector<u16> before = q.mem.host, kv_before = kv_a.mem.host;

    EXPECT_OK(mla_rope_append({.q = q.view({c.tokens, c.heads, width}, width),
                               .kv_a = kv_a.view(),
                               .norm = norm,
                               .nope = c.nope,
                               .positions = positions.in(),
                               .cos_sin = table.view(),
                               .interleaved = c.interleaved,
                               .slots = slots.in(),
                               .cache = fused.layer},
                              *gpu_stream()));
    q.down();
    expect_rotated(q, before, table, positions.host, c.heads, c.nope, c.interleaved);
    ASSERT_EQ(kv_a.down().mem.host, kv_before);

    const View raw(kv_a.mem.gpu.get(), DType::kBF16, {c.tokens, c.latent}, kv_a.stride);
    const View key(kv_a.mem.gpu.get() + c.latent, DType::kBF16, {c.tokens, c.rope}, kv_a.stride);
    EXPECT_OK(rms_norm({.x = raw, .weight = norm, .out = latent.view()}, *gpu_stream()));
    EXPECT_OK(rope({.x = kv_a.view({c.tokens, 1, c.latent + c.rope}, kv_a.stride),
                    .offset = c.latent,
                    .dim = c.rope,
                    .positions = positions.in(),
                    .cos_sin = table.view(),
                    .interleaved = c.interleaved},
                   *gpu_stream()));
    EXPECT_OK(mla_append({.latent = latent.view(), .rope = key, .slots = slots.in(), .cache = parts.layer},
                         *gpu_stream()));
    fused.mem.down();
    fused.expect_others_untouched(slots.host);
    ASSERT_EQ(fused.mem.host, parts.mem.down());
  }
}

TEST(CudaKvAppend, GqaTokens) {
  NEED_GPU();
  struct Case {
    i64 tokens;
    int heads, kv_heads, dim;
    i64 padding;
  };
  for (const Case& c : {Case{130, 32, 8, 128, 0}, Case{1, 8, 8, 64, 0}, Case{17, 6, 2, 24, 0},
                        Case{3, 4, 1, 80, 8}, Case{5, 2, 2, 10, 0}}) {
    KvLayout layout;
    layout.kind = KvLayout::Kind::kGqa;
    layout.dtype = DType::kBF16;
    layout.kv_heads = c.kv_heads;
    layout.head_dim = c.dim;
    Cache fused(layout, 5), parts(layout, 5);
    Table table(c.dim);
    Rows q(c.tokens * c.heads, c.dim, c.padding), k(c.tokens * c.kv_heads, c.dim, c.padding),
        v(c.tokens * c.kv_heads, c.dim, c.padding);
    q.randomise();
    k.randomise();
    v.randomise();
    const std::vector<u16> q_before = q.mem.host, k_before = k.mem.host;
    const Both<i32> slots(random_slots(c.tokens, 5)), positions(random_positions(c.tokens));
    const View k_view = k.view({c.tokens, c.kv_heads, c.dim}, k.stride);
    const View v_view = v.view({c.tokens, c.kv_heads, c.dim}, v.stride);
    EXPECT_OK(gqa_rope_append({.q = q.view({c.tokens, c.heads, c.dim}, q.stride),
                               .k = k_view,
                               .v = v_view,
                               .positions = positions.in(),
                               .cos_sin = table.view(),
                               .slots = slots.in(),
                               .cache = fused.layer},
                              *gpu_stream()));
    q.down().expect_padding_untouched();
    k.down().expect_padding_untouched();
    expect_rotated(q, q_before, table, positions.host, c.heads, 0, false);
    expect_rotated(k, k_before, table, positions.host, c.kv_heads, 0, false);
    EXPECT_OK(
        gqa_append({.k = k_view, .v = v_view, .slots = slots.in(), .cache = parts.layer}, *gpu_stream()));
    fused.mem.down();
    fused.expect_others_untouched(slots.host);
    ASSERT_EQ(fused.mem.host, parts.mem.down());
    for (std::size_t t = 0; t < slots.host.size(); ++t) {
      if (slots.host[t] < 0) continue;
      for (i64 h = 0; h < c.kv_heads; ++h) {
        const auto bytes = static_cast<std::size_t>(c.dim) * 2;
        const i64 row = static_cast<i64>(t) * c.kv_heads + h;
        const u8* const at = fused.token(slots.host[t]);
        ASSERT_EQ(std::memcmp(at + h * c.dim * 2, &k.bits(row, 0), bytes), 0);
        ASSERT_EQ(std::memcmp(at + (c.kv_heads + h) * c.dim * 2, &v.bits(row, 0), bytes), 0);
      }
    }
  }
}

TEST(CudaKvAppend, CopiesBlocksInOrder) {
  NEED_GPU();
  for (const bool fp8 : {false, true}) {
    constexpr i64 kBlocks = 200;
    constexpr std::size_t kLayers = 66;
    const KvLayout layout = mla_layout(128, fp8 ? 20 : 16, fp8);
    std::vector<Cache> caches;
    std::vector<KvCacheLayer> layers;
    for (std::size_t l = 0; l < kLayers; ++l) {
      caches.emplace_back(layout, kBlocks);
      std::vector<u8>& bytes = caches.back().mem.host;  // whole tokens of an even number of bytes
      for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8) {
        const u64 random = rng()();
        std::memcpy(bytes.data() + i, &random, 8);
      }
      caches.back().mem.up();
      layers.push_back(caches.back().layer);
    }
    std::vector<CopyBlock> copies;
    for (i32 i = 0; i < 90; ++i) copies.push_back({i, 100 + i, 1 + i % 64});
    copies.push_back({100, 5, 64});  // reads what was just written, and writes what was read
    copies.push_back({5, 5, 64});
    copies.push_back({6, 7, 0});
    EXPECT_OK(kv_copy({.copies = copies, .layers = layers}, *gpu_stream()));
    for (Cache& c : caches) {
      std::vector<u8> want = c.mem.host;
      const i64 token = layout.token_bytes();
      for (const CopyBlock& b : copies)
        if (b.from != b.to)
          std::memcpy(want.data() + b.to * 64 * token, want.data() + b.from * 64 * token,
                      static_cast<std::size_t>(b.tokens * token));
      ASSERT_EQ(c.mem.down(), want);
    }
  }
}

}  // namespace
}  // namespace trireme::cuda
