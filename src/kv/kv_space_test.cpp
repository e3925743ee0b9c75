#include "kv/kv_space.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace trireme::kv {
namespace {

std::vector<TokenId> counting(std::size_t n) {
  std::vector<TokenId> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

class KvSpaceTest : public ::testing::Test {
 protected:
  SeqBlocks seq(u64 owner) {
    SeqBlocks s;
    s.owner = owner;
    return s;
  }
  // A sequence that computes all of its tokens.
  SeqBlocks computed(u64 owner, const TokenView& tokens, KvSpace& space) {
    SeqBlocks s = seq(owner);
    EXPECT_TRUE(space.start(s, space.look(s, tokens), tokens.size(), tokens.size(), 0, 1));
    space.announce(s, tokens);
    space.fill(s, tokens, tokens.size(), 0);
    return s;
  }

  KvSpace kv{KvOptions{.blocks = 6, .block_tokens = 4}};
  const std::vector<TokenId> ten = counting(10);
  const TokenView text{ten, {}, {}};
};

TEST_F(KvSpaceTest, SharesFilledBlocksWhileTheirSequenceLives) {
  SeqBlocks first = computed(1, text, kv);
  SeqBlocks second = seq(2);
  const PrefixMatch match = kv.look(second, text);
  EXPECT_EQ(match.nodes.size(), 2U);
  EXPECT_EQ(match.owner, 0U);
  ASSERT_TRUE(kv.start(second, match, 10, 10, 0, 1));
  EXPECT_EQ(second.table[0], first.table[0]);
  EXPECT_EQ(second.table[1], first.table[1]);
  EXPECT_NE(second.table[2], first.table[2]);  // the partial last block is its own
  kv.check_integrity(std::vector<const SeqBlocks*>{&first, &second});
  kv.release(first);
  kv.release(second);
  EXPECT_EQ(kv.available(), 6);
  kv.clear_cache();
  EXPECT_EQ(kv.free(), 6);
}

TEST_F(KvSpaceTest, NamesTheSequenceThatIsComputingAPrefix) {
  SeqBlocks first = seq(1);
  ASSERT_TRUE(kv.start(first, {}, 4, 10, 0, 1));
  kv.announce(first, text);
  SeqBlocks second = seq(2);
  PrefixMatch match = kv.look(second, text);
  EXPECT_TRUE(match.nodes.empty());
  EXPECT_EQ(match.owner, 1U);
  EXPECT_EQ(match.promised, 8);
  kv.fill(first, text, 4, 0);
  match = kv.look(second, text);
  EXPECT_EQ(match.nodes.size(), 1U);
  EXPECT_EQ(match.owner, 1U);
  kv.release(first);
  match = kv.look(second, text);
  EXPECT_EQ(match.nodes.size(), 1U);
  EXPECT_EQ(match.owner, 0U);
}

TEST_F(KvSpaceTest, AFullHitLeavesTheLastTokenAndCopiesTheRestOfItsBlock) {
  const TokenView eight{std::span(ten).first(8), {}, {}};
  SeqBlocks first = computed(1, eight, kv);
  SeqBlocks second = seq(2);
  const PrefixMatch match = kv.look(second, eight);
  EXPECT_EQ(match.nodes.size(), 1U);
  EXPECT_EQ(match.copy_src, first.table[1]);
  EXPECT_EQ(match.copy_tokens, 3);
  ASSERT_TRUE(kv.start(second, match, 8, 8, 0, /*step=*/5));
  kv.release(first);
  EXPECT_EQ(kv.available(), 6 - 3);  // the source stays for the step that copies
  kv.settle(5);
  EXPECT_EQ(kv.available(), 6 - 2);
}

TEST_F(KvSpaceTest, TwinsEndUpOnOneBlockAndTheOtherIsKeptForStepsInFlight) {
  SeqBlocks first = computed(1, {std::span(ten).first(3), {}, {}}, kv);
  SeqBlocks second = computed(2, {std::span(ten).first(3), {}, {}}, kv);
  const TokenView grown{std::span(ten).first(3), std::span(ten).subspan(3, 1), {}};
  second.sent = 1;
  kv.fill(first, grown, 4, 7);
  kv.fill(second, grown, 4, 7);
  EXPECT_EQ(first.table, second.table);
  EXPECT_EQ(second.sent, 0);  // the executor must learn the new block
  EXPECT_EQ(kv.free(), 4);
  kv.check_integrity(std::vector<const SeqBlocks*>{&first, &second});
  kv.settle(7);
  EXPECT_EQ(kv.free(), 5);
}

TEST_F(KvSpaceTest, FailsToStartWithoutATrace) {
  SeqBlocks first = computed(1, text, kv);
  kv.release(first);
  SeqBlocks second = seq(2);
  EXPECT_FALSE(kv.start(second, kv.look(second, text), 10, 10, /*spare=*/4, 1));
  EXPECT_TRUE(second.table.empty() && second.path.empty());
  EXPECT_EQ(kv.available(), 6);
  EXPECT_EQ(kv.cached(), 2);
  EXPECT_TRUE(kv.start(second, kv.look(second, text), 10, 10, /*spare=*/3, 1));
}

TEST_F(KvSpaceTest, GrowsIntoTheCacheAndNoFurther) {
  SeqBlocks first = computed(1, text, kv);
  kv.release(first);
  SeqBlocks second = seq(2);
  ASSERT_TRUE(kv.start(second, {}, 4, 4, 0, 1));
  EXPECT_EQ(kv.reach(second), 24);
  EXPECT_FALSE(kv.grow(second, 25));
  EXPECT_EQ(kv.cached(), 2);
  EXPECT_TRUE(kv.grow(second, 24));
  EXPECT_EQ(kv.cached(), 0);
}

TEST_F(KvSpaceTest, SaltsShareNothing) {
  SeqBlocks first = computed(1, {ten, {}, "a"}, kv);
  SeqBlocks second = seq(2), third = seq(3);
  EXPECT_TRUE(kv.look(second, {ten, {}, "b"}).nodes.empty());
  EXPECT_EQ(kv.look(third, {ten, {}, "a"}).nodes.size(), 2U);
}

TEST_F(KvSpaceTest, ACollidingHashNeverSharesABlock) {
  KvSpace one_bit(KvOptions{.blocks = 40, .block_tokens = 4, .hash_bits = 1});
  std::vector<SeqBlocks> sequences;
  for (TokenId i = 0; i < 8; ++i) {
    const std::vector<TokenId> tokens{i, i, i, i, i, i};
    sequences.push_back(computed(static_cast<u64>(i + 1), {tokens, {}, {}}, one_bit));
  }
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(sequences[i].table[0], sequences[j].table[0]);
  }
  EXPECT_LE(one_bit.cached(), 2);
}

TEST_F(KvSpaceTest, GeneratedBlocksServePromptsOnlyWhereFormsMayMix) {
  for (const bool mix : {true, false}) {
    KvSpace space(KvOptions{.blocks = 6, .block_tokens = 4, .mix_generated = mix});
    const TokenView half{std::span(ten).first(6), std::span(ten).subspan(6), {}};
    SeqBlocks first = computed(1, half, space);
    SeqBlocks next_turn = seq(2), again = seq(3);
    EXPECT_EQ(space.look(next_turn, text).nodes.size(), mix ? 2U : 1U);
    EXPECT_EQ(space.look(again, half).nodes.size(), 2U);  // after a preemption
  }
}

}  // namespace
}  // namespace trireme::kv
