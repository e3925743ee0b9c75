// Which ops MLA calls and with what, on a backend that computes nothing.
#include "layers/mla.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace trireme::layers {
namespace {

struct Calls {
  int head_linear = 0;
  std::vector<MlaQueryArgs> query;
  std::vector<MlaAbsorbedArgs> absorbed;
  std::vector<MlaExpandedArgs> expanded;
  std::vector<MlaRopeAppendArgs> append;
};
Calls* calls = nullptr;  // ops are plain functions

template <class Args>
Status nothing(const Args&, Stream&) {
  return {};
}

struct NoStream final : Stream {
  Status synchronize() override { return {}; }
};
struct HostDevice final : Device {
  const Chip& chip() const override { return chip_; }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<NoStream>(); }
  Result<Buffer> allocate(i64 bytes) override {
    const auto size = static_cast<std::size_t>(round_up(bytes, i64{256}));
    std::shared_ptr<void> owner(std::aligned_alloc(256, size), std::free);
    return Buffer(owner, owner.get(), bytes);
  }
  Status copy_in(void*, const void*, i64, Stream&) override { return {}; }
  Status copy_out(void*, const void*, i64, Stream&) override { return {}; }
  bool host_readable() const override { return true; }
  Chip chip_;
};
struct Recorder final : Backend {
  const char* name() const override { return "recorder"; }
  Device& device() override { return device_; }
  const Ops& ops() const override { return ops_; }
  DType act() const override { return DType::kBF16; }
  DType kv_dtype() const override { return DType::kBF16; }
  bool batch_invariant() const override { return false; }
  i64 prepared_bytes(i64, i64, DType) const override { return 0; }
  i64 mla_expanded_room_bytes(const MlaExpandedArgs& a) const override { return room_a_row * a.kv.shape[0]; }
  i64 room_a_row = 100;
  HostDevice device_;
  Ops ops_ = {.linear = nothing<LinearArgs>,
              .head_linear = [](const HeadLinearArgs&, Stream&) -> Status {
                ++calls->head_linear;
                return {};
              },
              .mla_gather = nothing<MlaGatherArgs>,
              .mla_absorbed = [](const MlaAbsorbedArgs& a, Stream&) -> Status {
                calls->absorbed.push_back(a);
                return {};
              },
              .mla_expanded = [](const MlaExpandedArgs& a, Stream&) -> Status {
                calls->expanded.push_back(a);
                return {};
              },
              .add_rms_norm = nothing<AddRmsNormArgs>,
              .mla_rope_append = [](const MlaRopeAppendArgs& a, Stream&) -> Status {
                calls->append.push_back(a);
                return {};
              },
              .mla_query = [](const MlaQueryArgs& a, Stream&) -> Status {
                calls->query.push_back(a);
                return {};
              }};
};

class MlaLayer : public testing::Test {
 protected:
  static constexpr i64 kTokens = 3, kHidden = 64, kContext = 27;
  MlaLayer() {
    calls = &calls_;
    w.heads = 4;
    w.absorb_all = true;
    w.latent_scale = 0x1p-6f;
    w.a.n = w.latent + w.rope;
    w.q_b.n = w.heads * (w.nope + w.rope);
    w.kv_b.n = w.heads * (w.nope + w.v);
  }
  ~MlaLayer() override { calls = nullptr; }
  void run() {
    Arena arena(backend.device_);
    const Context c{.backend = backend, .stream = stream, .arena = arena};
    std::vector<u16> x(kTokens * kHidden), out(kTokens * kHidden);
    const std::vector<i32> ids(kTokens), start = {0, 1, 2, 3}, context(kTokens, 9), table(kTokens),
                                         k_start = {0, 9, 18, 27};
    Batch b;
    b.tokens = b.positions = b.slots = ids;
    b.all = {.q_start = start, .context_len = context, .block_table = table, .max_blocks = 1};
    if (!w.absorb_all)
      b.expanded = {{.seqs = b.all, .k_start = k_start, .rows = kTokens, .context = kContext}};
    Activation in{.x = View(x.data(), DType::kBF16, {kTokens, kHidden}), .q = {}};
    const KvCacheLayer cache{.layout = {.dtype = DType::kF8E4M3, .latent_dim = 512, .rope_dim = 64},
                             .data = x.data(),
                             .blocks = 3};
    const Status status = mla(c, w, b, cache, in, View(out.data(), DType::kBF16, {kTokens, kHidden}));
    ASSERT_TRUE(status) << status.error().message;
  }
  Recorder backend;
  NoStream stream;
  Mla w;
  Calls calls_;
};

TEST_F(MlaLayer, QueriesAreMadeAndReadOverTheSameSequencesAndCache) {
  run();
  ASSERT_EQ(calls_.query.size(), 1u);
  ASSERT_EQ(calls_.absorbed.size(), 1u);
  EXPECT_EQ(calls_.head_linear, 1);  // W_UV
  const MlaQueryArgs& q = calls_.query[0];
  const MlaAbsorbedArgs& a = calls_.absorbed[0];
  EXPECT_TRUE(a.made);
  EXPECT_EQ(q.out.data, a.q_latent.data);
  EXPECT_EQ(q.out.row_stride, w.latent);  // dense: there may be codes in it
  EXPECT_EQ(q.seqs.context_len.data(), a.seqs.context_len.data());
  EXPECT_EQ(q.cache.data, a.cache.data);
  EXPECT_EQ(static_cast<const char*>(a.q_rope.data) - static_cast<const char*>(q.q.data), 2 * w.nope);
}

TEST_F(MlaLayer, EveryOpThatTouchesTheCacheKnowsItsScale) {
  run();
  ASSERT_EQ(calls_.append.size(), 1u);
  EXPECT_EQ(calls_.append[0].cache.latent_scale, w.latent_scale);
  EXPECT_EQ(calls_.query.at(0).cache.latent_scale, w.latent_scale);
  EXPECT_EQ(calls_.absorbed.at(0).cache.latent_scale, w.latent_scale);
}

TEST_F(MlaLayer, WithoutMlaQueryTheProductIsPlain) {
  backend.ops_.mla_query = nullptr;
  run();
  ASSERT_EQ(calls_.absorbed.size(), 1u);
  EXPECT_FALSE(calls_.absorbed[0].made);
  EXPECT_EQ(calls_.head_linear, 2);
}

TEST_F(MlaLayer, ExpandedAttentionMayMultiplyInFp8WhereTheLayerHasScales) {
  w.absorb_all = false;
  run();
  w.k_scale = 0x1p-3f;
  w.v_scale = 0x1p-5f;
  run();
  backend.room_a_row = 0;  // a backend that makes no use of it
  run();
  ASSERT_EQ(calls_.expanded.size(), 3u);
  EXPECT_EQ(calls_.expanded[0].fp8.k_scale, 0);
  EXPECT_FALSE(calls_.expanded[0].fp8.room);
  const MlaExpandedArgs& a = calls_.expanded[1];
  EXPECT_EQ(a.fp8.k_scale, w.k_scale);
  EXPECT_EQ(a.fp8.v_scale, w.v_scale);
  ASSERT_TRUE(a.fp8.room);
  EXPECT_EQ(a.fp8.room.bytes(), 100 * kContext);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.fp8.room.data) % 128, 0u);
  EXPECT_FALSE(calls_.expanded[2].fp8.room);
}

}  // namespace
}  // namespace trireme::layers
