#include "kv/block_hash.h"

#include <gtest/gtest.h>

#include <vector>

namespace trireme::kv {
namespace {

TEST(BlockHash, DependsOnSaltModelParentTokensAndForm) {
  const BlockHasher hasher("model");
  const std::vector<TokenId> tokens{1, 2, 3, 4}, others{1, 2, 3, 5};
  const BlockHash root = hasher.root("");
  const BlockHash first = hasher.next(root, tokens, 4);
  EXPECT_EQ(first, hasher.next(root, tokens, 4));
  EXPECT_NE(first, hasher.next(root, others, 4));
  EXPECT_NE(first, hasher.next(root, tokens, 2));
  EXPECT_NE(first, hasher.next(first, tokens, 4));
  EXPECT_NE(first, hasher.next(hasher.root("salt"), tokens, 4));
  EXPECT_NE(root, BlockHasher("another model").root(""));
  EXPECT_NE(BlockHasher("ab").root("c"), BlockHasher("a").root("bc"));
}

TEST(BlockHash, IsTheSameInEveryProcess) {  // routers and other nodes compute it as well
  const BlockHash h =
      BlockHasher("model").next(BlockHasher("model").root("salt"), std::vector<TokenId>{1, 2, 3}, 3);
  EXPECT_EQ(h.low, 0xb268d116ae404427U);
  EXPECT_EQ(h.high, 0x77559aeba16f592eU);
}

TEST(BlockHash, KeepsOnlyTheLowestBitsWhenCut) {
  const BlockHash full = BlockHasher("m").root("s");
  EXPECT_EQ(BlockHasher("m", 7).root("s"), (BlockHash{full.low & 0x7f, 0}));
  EXPECT_EQ(BlockHasher("m", 64).root("s"), (BlockHash{full.low, 0}));
  EXPECT_EQ(BlockHasher("m", 65).root("s"), (BlockHash{full.low, full.high & 1}));
}

}  // namespace
}  // namespace trireme::kv
