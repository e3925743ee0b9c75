#include "kv/block_pool.h"

#include <gtest/gtest.h>

namespace trireme::kv {
namespace {

TEST(BlockPool, GivesAllBlocksOrNone) {
  BlockPool pool(4);
  const BlockList three = pool.take(3).value();
  const auto two = pool.take(2);
  ASSERT_FALSE(two);
  EXPECT_EQ(two.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(pool.free(), 1);
  pool.check_integrity();
}

TEST(BlockPool, FreesABlockWithItsLastReference) {
  BlockPool pool(1);
  const BlockId block = pool.take(1).value().front();
  pool.retain(block);
  pool.release(block);
  EXPECT_EQ(pool.free(), 0);
  pool.release(block);
  EXPECT_EQ(pool.free(), 1);
  pool.check_integrity();
}

TEST(BlockPoolDeathTest, RefusesToReleaseAFreeBlock) {
  BlockPool pool(2);
  const BlockId block = pool.take(1).value().front();
  pool.release(block);
  EXPECT_DEATH(pool.release(block), "is free");
  EXPECT_DEATH(pool.retain(block), "is free");
  EXPECT_DEATH(pool.release(BlockId(2)), "block 2 of 2");
}

}  // namespace
}  // namespace trireme::kv
