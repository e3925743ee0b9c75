#include "kv/prefix_cache.h"

#include <gtest/gtest.h>

#include <vector>

namespace trireme::kv {
namespace {

class PrefixCacheTest : public ::testing::Test {
 protected:
  BlockKey key(const std::vector<TokenId>& tokens, NodeId parent = kNoNode, std::string_view salt = "") {
    const BlockHash before =
        parent == kNoNode ? hasher.root(salt) : BlockHash{static_cast<u64>(parent.value), 1};
    return {hasher.next(before, tokens, 2), parent, salt, tokens, 2};
  }
  // A filled node whose sequence has gone.
  NodeId cached(const std::vector<TokenId>& tokens, i32 priority = 0, NodeId parent = kNoNode) {
    if (parent != kNoNode) cache.pin(parent, -100);
    const NodeId node = cache.announce(key(tokens, parent), 1, priority);
    const BlockId block = pool.take(1).value().front();
    cache.fill(node, block);
    pool.release(block);
    cache.unpin(node);
    if (parent != kNoNode) cache.unpin(parent);
    cache.check_integrity();
    return node;
  }
  bool has(const std::vector<TokenId>& tokens, NodeId parent = kNoNode) {
    return cache.find(key(tokens, parent)) != kNoNode;
  }

  BlockHasher hasher{"model"};
  BlockPool pool{8};
  PrefixCache cache{pool};
  const std::vector<TokenId> a{1, 1}, b{2, 2}, c{3, 3};
};

TEST_F(PrefixCacheTest, EvictsWhatWasUnusedForLongest) {
  const NodeId first = cached(a);
  cached(b);
  cache.pin(first, 0);
  cache.unpin(first);
  ASSERT_TRUE(cache.evict_one());
  EXPECT_TRUE(has(a));
  EXPECT_FALSE(has(b));
  EXPECT_EQ(pool.free(), 7);
}

TEST_F(PrefixCacheTest, EvictsLowPrioritiesFirstHoweverNew) {
  cached(a, 2);
  cached(b, 1);
  cached(c, 3);
  ASSERT_TRUE(cache.evict_one());
  EXPECT_FALSE(has(b));
  ASSERT_TRUE(cache.evict_one());
  EXPECT_FALSE(has(a));
  EXPECT_TRUE(has(c));
}

TEST_F(PrefixCacheTest, ANodeKeepsTheHighestPriorityOfItsUsers) {
  const NodeId node = cached(a, 0);
  cached(b, 1);
  cache.pin(node, 5);
  cache.unpin(node);
  ASSERT_TRUE(cache.evict_one());
  EXPECT_TRUE(has(a));
}

TEST_F(PrefixCacheTest, EvictsLeavesBeforeTheirParents) {
  const NodeId parent = cached(a, 0);
  cached(b, 9, parent);
  ASSERT_TRUE(cache.evict_one());
  EXPECT_TRUE(has(a));
  ASSERT_TRUE(cache.evict_one());
  EXPECT_FALSE(cache.evict_one());
  EXPECT_EQ(pool.free(), 8);
}

TEST_F(PrefixCacheTest, NeverEvictsWhatIsPinned) {
  const NodeId node = cached(a);
  cache.pin(node, 0);
  EXPECT_EQ(cache.evictable(), 0);
  EXPECT_FALSE(cache.evict_one());
  cache.unpin(node);
  EXPECT_EQ(cache.evictable(), 1);
}

TEST_F(PrefixCacheTest, APendingNodeGoesWithItsOwner) {
  const NodeId node = cache.announce(key(a), 7, 0);
  EXPECT_EQ(cache.owner(node), 7U);
  EXPECT_FALSE(cache.is_filled(node));
  cache.unpin(node);
  EXPECT_FALSE(has(a));
  cache.check_integrity();
}

TEST_F(PrefixCacheTest, AHashThatCollidesIsAMiss) {
  cached(a);
  BlockKey forged = key(b);
  forged.hash = key(a).hash;
  EXPECT_EQ(cache.find(forged), kNoNode);
  EXPECT_EQ(cache.announce(forged, 1, 0), kNoNode);
  BlockKey other_salt = key(a);
  other_salt.salt = "salt";
  EXPECT_EQ(cache.find(other_salt), kNoNode);
  BlockKey other_form = key(a);
  other_form.generated_from = 1;
  EXPECT_EQ(cache.find(other_form), kNoNode);
  cache.check_integrity();
}

TEST_F(PrefixCacheTest, TheSameTokensAfterAnotherParentAreAnotherNode) {
  const NodeId first = cached(a), second = cached(b);
  cached(c, 0, first);
  EXPECT_TRUE(has(c, first));
  EXPECT_FALSE(has(c, second));
  EXPECT_FALSE(has(c));
}

}  // namespace
}  // namespace trireme::kv
