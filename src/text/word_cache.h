// Remembers the ids of words seen lately. Bounded (about 1.5 MiB); a colliding word replaces the older one.
// Not thread-safe: each running encode borrows its own from a WordCachePool.
#pragma once
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace trireme::text {

class WordCache {
 public:
  static constexpr std::size_t kInlineIds = 4;
  static constexpr std::size_t kShortWord = 15;  // bytes; a short word is compared in two registers
  static constexpr std::size_t kLongWord = 256;  // longer words are not kept

  // A short word's bytes, zero-padded, with its length in the last byte; so equal keys are equal words.
  struct Key {
    u64 low = 0, high = 0;
  };
  // The ids of a short word, padded with -1. ids[0] == kSpilled: in `spilled`, {offset, count} follow.
  struct alignas(32) Slot {
    Key key;
    std::array<TokenId, kInlineIds> ids;
  };
  static constexpr TokenId kSpilled = -2;

  WordCache() : short_(kShortSlots), long_(kLongSlots) {}

  // `readable`: how many bytes may be read from `word` on; 16 or more is the fast way.
  // REQUIRES: size <= kShortWord.
  static Key key_of(const char* word, std::size_t size, std::size_t readable) {
    Key key;
    if (readable >= 16) [[likely]] {
      std::memcpy(&key, word, 16);
      key.low &= size >= 8 ? ~u64{0} : (u64{1} << (size * 8)) - 1;
      key.high &= size <= 8 ? 0 : (u64{1} << ((size - 8) * 8)) - 1;
    } else {
      std::memcpy(&key, word, size);
    }
    key.high |= u64{size} << 56;
    return key;
  }
  // The slot where `key` is, if its key equals.
  Slot& slot(Key key) { return short_[hash(key) >> (64 - kShortBits)]; }
  static bool equal(Key a, Key b) { return ((a.low ^ b.low) | (a.high ^ b.high)) == 0; }
  std::span<const TokenId> spilled(const Slot& s) const {
    return {pool_ids_.data() + s.ids[1], static_cast<std::size_t>(s.ids[2])};
  }
  void keep(Key key, std::span<const TokenId> ids);

  // For words of kShortWord < size <= kLongWord. Empty: not here.
  std::span<const TokenId> find_long(std::string_view word) const;
  void keep_long(std::string_view word, std::span<const TokenId> ids);

 private:
  static constexpr int kShortBits = 15, kLongBits = 11;
  static constexpr std::size_t kShortSlots = 1u << kShortBits, kLongSlots = 1u << kLongBits;
  static constexpr std::size_t kPoolIds = 64 << 10, kPoolBytes = 128 << 10;

  struct LongSlot {
    u64 hash = 0;
    u32 bytes_at = 0, bytes = 0, ids_at = 0, ids = 0;
  };
  static u64 hash(Key k) {
    const u64 h = (k.low ^ k.high * 0xC2B2AE3D27D4EB4FULL) * 0x9E3779B97F4A7C15ULL;
    return (h ^ h >> 32) * 0x9E3779B97F4A7C15ULL;
  }
  static u64 hash_long(std::string_view word);
  void reset();

  std::vector<Slot> short_;
  std::vector<LongSlot> long_;
  std::vector<TokenId> pool_ids_;
  std::vector<char> pool_bytes_;
};

// Lends caches, so that threads share nothing while they encode. Thread-safe.
class WordCachePool {
 public:
  class Lease {
   public:
    Lease(WordCachePool& pool, std::unique_ptr<WordCache> cache) : pool_(pool), cache_(std::move(cache)) {}
    ~Lease() { pool_.give_back(std::move(cache_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    WordCache& operator*() const { return *cache_; }

   private:
    WordCachePool& pool_;
    std::unique_ptr<WordCache> cache_;
  };
  Lease borrow();

 private:
  static constexpr std::size_t kKept = 16;
  void give_back(std::unique_ptr<WordCache> cache);

  std::mutex mutex_;
  std::vector<std::unique_ptr<WordCache>> idle_;
};

}  // namespace trireme::text
