// Attention of prompts with products in e4m3: against the generic kernel on the same BF16 inputs, over ragged
// batches whose unused memory is NaN.
#include "backends/cuda/sm90/flash_prefill_fp8/flash_prefill_fp8.h"

#include <gtest/gtest.h>

#include "backends/cuda/attention_gpu_fixture.h"

namespace trireme::cuda {
namespace {
using namespace testing_attention;

constexpr double kRounded = 6e-2;  // queries, keys, values and weights of three bits
constexpr double kExact = 2.5e-2;  // weights alone
constexpr float kScale = 0x1p-6f;  // normal numbers stay below 7
constexpr int kGuard = 4096;
constexpr int kPast = 100;  // rows past the contexts

float as_code(float x, float scale) { return static_cast<float>(__nv_fp8_e4m3(x / scale)) * scale; }

struct Run {
  int min_tokens = 1, sms = 132;
  float k_scale = kScale, v_scale = kScale;
};

// Inputs of a batch, and of any one of its sequences.
class Inputs {
 public:
  Inputs(const Ragged& batch, const ExpandedCase& of) : b_(batch), c_(of) {
    const auto more = [](std::vector<Bf16> x, int n) {
      x.resize(x.size() + static_cast<std::size_t>(n), __float2bfloat16(NAN));
      return x;
    };
    q_.put(c_.q);
    kv_.put(more(c_.kv, kPast * c_.heads * 256));
    k_rope_.put(more(c_.k_rope, kPast * 64));
  }
  std::size_t row() const { return static_cast<std::size_t>(c_.heads * 128); }

  std::vector<double> generic() const {
    const RaggedOnDevice d(b_);
    const OnDevice out(nans(static_cast<std::size_t>(b_.tokens()) * row()));
    EXPECT_EQ(mla_expanded_generic({.q = q_.get(),
                                    .q_stride = 192,
                                    .kv = kv_.get(),
                                    .kv_stride = 256,
                                    .k_rope = k_rope_.get(),
                                    .k_rope_stride = 64,
                                    .batch = d.batch,
                                    .k_start = d.k_start.get(),
                                    .scale = c_.scale,
                                    .out = out.get(),
                                    .out_stride = 128,
                                    .tokens = b_.tokens(),
                                    .heads = c_.heads,
                                    .nope = 128,
                                    .rope = 64,
                                    .v = 128},
                                   nullptr),
              cudaSuccess);
    return doubles(out.host());
  }

  std::vector<Bf16> fp8(const Run& r) const { return fp8(r, b_, 0, 0, kPast); }
  // As if this sequence were the whole batch.
  std::vector<Bf16> alone(Rng& rng, int seq) const {
    const auto s = static_cast<std::size_t>(seq);
    const Ragged one(rng, {{b_.q_start[s + 1] - b_.q_start[s], b_.context[s]}});
    return fp8({}, one, b_.q_start[s], b_.k_start[s], 0);
  }

 private:
  struct Memory {
    void put(const std::vector<Bf16>& x) { held = std::make_unique<OnDevice<Bf16>>(x); }
    Bf16* get() const { return held->get(); }
    std::unique_ptr<OnDevice<Bf16>> held;
  };

  std::vector<Bf16> fp8(const Run& r, const Ragged& b, int first, int first_key, int past) const {
    const RaggedOnDevice d(b);
    const std::int64_t rows = b.context_rows() + past, heads = c_.heads;
    const std::int64_t bytes = flash_mla_fp8_room_bytes(rows, b.seqs(), c_.heads);
    const OnDevice room(std::vector<char>(static_cast<std::size_t>(bytes + kGuard), '\xff'));
    const OnDevice out(nans(static_cast<std::size_t>(b.tokens()) * row()));
    const OnDevice counter(std::vector<unsigned>{12345});
    const FlashMlaArgs a = {.seqs = {.batch = d.batch,
                                     .min_tokens = r.min_tokens,
                                     .tokens = b.tokens(),
                                     .sms = r.sms,
                                     .counter = counter.get()},
                            .q = q_.get() + first * heads * 192,
                            .kv = kv_.get() + first_key * heads * 256,
                            .k_rope = k_rope_.get() + first_key * 64,
                            .k_start = d.k_start.get(),
                            .rows = rows,
                            .scale = c_.scale,
                            .out = out.get(),
                            .heads = c_.heads};
    EXPECT_EQ(
        flash_mla_fp8({.mla = a, .k_scale = r.k_scale, .v_scale = r.v_scale, .room = room.get()}, nullptr),
        cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<char> after = room.host();
    EXPECT_TRUE(std::all_of(after.end() - kGuard, after.end(), [](char x) { return x == '\xff'; }))
        << "written behind the room";
    return out.host();
  }

  const Ragged& b_;
  const ExpandedCase& c_;
  Memory q_, kv_, k_rope_;
};

bool same_bits(const std::vector<Bf16>& a, const std::vector<Bf16>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Bf16)) == 0;
}

class FlashMlaFp8 : public GpuTest {};

// Whole tiles, one row less and one more, of queries and of keys; prefixes, single tokens, padding, nothing.
const std::vector<std::pair<int, int>> kRagged = {
    {130, 130}, {200, 777}, {16, 16},   {1, 1},      {2, 0},   {127, 127}, {128, 128}, {129, 129}, {0, 0},
    {1, 129},   {64, 127},  {128, 383}, {257, 1000}, {140, 0}, {3, 50},    {9, 300},   {1, 700}};

TEST_F(FlashMlaFp8, AgreesWithTheGenericKernel) {
  const Ragged b(rng, kRagged);
  for (const int heads : {1, 2, 5}) {
    const ExpandedCase c(rng, b, heads, 128, 64, 128);
    const Inputs in(b, c);
    const std::vector<double> expected = in.generic();
    for (const int sms : {1, 5, 132})  // on 132 multiprocessors a CTA has one tile, on fewer several
      EXPECT_LT(relative_error(in.fp8({.sms = sms}), expected), kRounded)
          << heads << " heads, " << sms << " multiprocessors";
  }
}

TEST_F(FlashMlaFp8, NumbersThatAreCodesAlreadyAreNotRounded) {
  const Ragged b(rng, kRagged);
  ExpandedCase c(rng, b, 2, 128, 64, 128);
  for (std::size_t i = 0; i < c.q.size(); ++i)
    if (i % 192 < 128) c.q[i] = __float2bfloat16(as_code(value(c.q[i]), kScale));
  for (Bf16& x : c.kv) x = __float2bfloat16(as_code(value(x), kScale));
  const Inputs in(b, c);
  EXPECT_LT(relative_error(in.fp8({}), in.generic()), kExact);
}

TEST_F(FlashMlaFp8, ShortSequencesAreLeftAlone) {
  const Ragged b(rng, kRagged);
  const ExpandedCase c(rng, b, 2, 128, 64, 128);
  const Inputs in(b, c);
  std::vector<double> expected = in.generic();
  std::vector<Bf16> got = in.fp8({.min_tokens = 9});
  for (int s = 0; s < b.seqs(); ++s) {
    const auto begin = static_cast<std::size_t>(b.q_start[static_cast<std::size_t>(s)]),
               end = static_cast<std::size_t>(b.q_start[static_cast<std::size_t>(s) + 1]);
    if (end - begin >= 9) continue;
    for (std::size_t i = begin * in.row(); i < end * in.row(); ++i) {
      ASSERT_TRUE(std::isnan(value(got[i]))) << "sequence " << s;
      got[i] = __float2bfloat16(0);
      expected[i] = 0;
    }
  }
  EXPECT_LT(relative_error(got, expected), kRounded);
}

TEST_F(FlashMlaFp8, ScalesMoveNumbersWithoutRoundingThem) {
  const Ragged b(rng, kRagged);
  const ExpandedCase c(rng, b, 2, 128, 64, 128);
  ExpandedCase moved = c;  // keys 32 times smaller, values 1,024 times larger
  for (std::size_t i = 0; i < c.kv.size(); ++i)
    moved.kv[i] = __float2bfloat16(value(c.kv[i]) * (i % 256 < 128 ? 0x1p-5f : 0x1p10f));
  for (Bf16& x : moved.k_rope) x = __float2bfloat16(value(x) * 0x1p-5f);
  moved.scale = c.scale * 0x1p5f;
  std::vector<Bf16> want = Inputs(b, c).fp8({});
  for (Bf16& x : want) x = __float2bfloat16(value(x) * 0x1p10f);
  const auto got = Inputs(b, moved).fp8({.k_scale = kScale * 0x1p-5f, .v_scale = kScale * 0x1p10f});
  EXPECT_TRUE(same_bits(got, want));
}

TEST_F(FlashMlaFp8, WhatIsBeyondTheScaleIsCutOffThere) {
  const Ragged b(rng, kRagged);
  ExpandedCase large(rng, b, 2, 128, 64, 128);
  for (std::size_t i = 0; i < large.kv.size(); i += 97)
    large.kv[i] = __float2bfloat16(std::copysign(1e4f, value(large.kv[i])));
  ExpandedCase cut = large;
  for (Bf16& x : cut.kv) x = __float2bfloat16(std::clamp(value(x), -448 * kScale, 448 * kScale));
  EXPECT_TRUE(same_bits(Inputs(b, large).fp8({}), Inputs(b, cut).fp8({})));
}

TEST_F(FlashMlaFp8, ARowIsTheSameToTheBitAloneAndBesideOthers) {
  const Ragged b(rng, kRagged);
  const ExpandedCase c(rng, b, 2, 128, 64, 128);
  const Inputs in(b, c);
  const std::vector<Bf16> together = in.fp8({});
  EXPECT_TRUE(same_bits(in.fp8({.sms = 3}), together)) << "on fewer multiprocessors";
  for (int s = 0; s < b.seqs(); ++s) {
    const auto first = static_cast<std::ptrdiff_t>(in.row()) * b.q_start[static_cast<std::size_t>(s)],
               last = static_cast<std::ptrdiff_t>(in.row()) * b.q_start[static_cast<std::size_t>(s) + 1];
    if (b.context[static_cast<std::size_t>(s)] == 0) continue;
    EXPECT_TRUE(same_bits(in.alone(rng, s), {together.begin() + first, together.begin() + last}))
        << "sequence " << s;
  }
}

TEST_F(FlashMlaFp8, ARoomServesOneCallAfterAnother) {
  // As the layers of a model use it: what a longer batch left there is nobody's.
  const Ragged longer(rng, {{300, 900}, {128, 128}}), shorter(rng, {{70, 200}, {5, 64}});
  const ExpandedCase one(rng, longer, 2, 128, 64, 128), two(rng, shorter, 2, 128, 64, 128);
  const OnDevice room(std::vector<char>(
      static_cast<std::size_t>(flash_mla_fp8_room_bytes(longer.context_rows(), longer.seqs(), 2))));
  const OnDevice counter(std::vector<unsigned>(1));
  for (const auto& [b, c] : {std::pair(&longer, &one), {&shorter, &two}, {&longer, &one}}) {
    const RaggedOnDevice d(*b);
    const OnDevice q(c->q), kv(c->kv), k_rope(c->k_rope);
    const OnDevice out(nans(static_cast<std::size_t>(b->tokens() * 256)));
    const FlashMlaArgs a = {
        .seqs = {.batch = d.batch, .tokens = b->tokens(), .sms = 132, .counter = counter.get()},
        .q = q.get(),
        .kv = kv.get(),
        .k_rope = k_rope.get(),
        .k_start = d.k_start.get(),
        .rows = b->context_rows(),
        .scale = c->scale,
        .out = out.get(),
        .heads = 2};
    ASSERT_EQ(flash_mla_fp8({.mla = a, .k_scale = kScale, .v_scale = kScale, .room = room.get()}, nullptr),
              cudaSuccess);
    EXPECT_LT(relative_error(out.host(), Inputs(*b, *c).generic()), kRounded);
  }
}

}  // namespace
}  // namespace trireme::cuda
