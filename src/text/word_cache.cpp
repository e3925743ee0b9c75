#include "text/word_cache.h"

#include <algorithm>

#include "base/check.h"

namespace trireme::text {

void WordCache::reset() {
  std::fill(short_.begin(), short_.end(), Slot{});
  std::fill(long_.begin(), long_.end(), LongSlot{});
  pool_ids_.clear();
  pool_bytes_.clear();
}

void WordCache::keep(Key key, std::span<const TokenId> ids) {
  if (ids.empty()) return;
  Slot s{key, {-1, -1, -1, -1}};
  if (ids.size() <= kInlineIds) {
    std::copy(ids.begin(), ids.end(), s.ids.begin());
  } else {
    if (pool_ids_.size() + ids.size() > kPoolIds) reset();
    s.ids = {kSpilled, static_cast<TokenId>(pool_ids_.size()), static_cast<TokenId>(ids.size()), -1};
    pool_ids_.insert(pool_ids_.end(), ids.begin(), ids.end());
  }
  slot(key) = s;
}

u64 WordCache::hash_long(std::string_view word) {
  u64 h = word.size() * 0x9E3779B97F4A7C15ULL;
  for (std::size_t i = 0; i < word.size(); i += 8) {
    u64 part = 0;
    std::memcpy(&part, word.data() + i, std::min<std::size_t>(8, word.size() - i));
    h = (h ^ part) * 0xC2B2AE3D27D4EB4FULL;
    h ^= h >> 29;
  }
  return h * 0x9E3779B97F4A7C15ULL;
}

std::span<const TokenId> WordCache::find_long(std::string_view word) const {
  const u64 h = hash_long(word);
  const LongSlot& s = long_[h >> (64 - kLongBits)];
  if (s.hash != h || s.bytes != word.size()) return {};
  if (std::memcmp(pool_bytes_.data() + s.bytes_at, word.data(), word.size()) != 0) return {};
  return {pool_ids_.data() + s.ids_at, s.ids};
}

void WordCache::keep_long(std::string_view word, std::span<const TokenId> ids) {
  CHECK(word.size() <= kLongWord);
  if (pool_ids_.size() + ids.size() > kPoolIds || pool_bytes_.size() + word.size() > kPoolBytes) reset();
  const u64 h = hash_long(word);
  long_[h >> (64 - kLongBits)] = {h, static_cast<u32>(pool_bytes_.size()), static_cast<u32>(word.size()),
                                  static_cast<u32>(pool_ids_.size()), static_cast<u32>(ids.size())};
  pool_bytes_.insert(pool_bytes_.end(), word.begin(), word.end());
  pool_ids_.insert(pool_ids_.end(), ids.begin(), ids.end());
}

WordCachePool::Lease WordCachePool::borrow() {
  std::unique_ptr<WordCache> cache;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      cache = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!cache) cache = std::make_unique<WordCache>();
  return Lease(*this, std::move(cache));
}

void WordCachePool::give_back(std::unique_ptr<WordCache> cache) {
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kKept) idle_.push_back(std::move(cache));
}

}  // namespace trireme::text
