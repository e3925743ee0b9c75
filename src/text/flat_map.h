// An open-addressing map from u64 to u64, filled once and then read by many threads. Linear probing, at most
// half full, so a miss ends soon. The key ~0 is not allowed.
#pragma once
#include <bit>
#include <vector>

#include "base/check.h"
#include "base/types.h"

namespace trireme::text {

class FlatMap {
 public:
  static constexpr u64 kNone = ~u64{0};

  explicit FlatMap(std::size_t expected = 0) { rehash(expected * 2); }

  // Replaces the value of a key that is there.
  void insert(u64 key, u64 value) {
    CHECK(key != kNone, "the key ~0 is reserved");
    if ((count_ + 1) * 2 > slots_.size()) rehash(slots_.size() * 2);
    Slot& slot = slots_[find_slot(key)];
    if (slot.key == kNone) ++count_;
    slot = {key, value};
  }
  // The value, or kNone.
  u64 find(u64 key) const { return slots_[find_slot(key)].value; }
  std::size_t size() const { return count_; }

 private:
  struct Slot {
    u64 key = kNone, value = kNone;
  };

  std::size_t find_slot(u64 key) const {
    std::size_t at = (key * 0x9E3779B97F4A7C15ULL) >> shift_;
    while (slots_[at].key != key && slots_[at].key != kNone) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  void rehash(std::size_t wanted) {
    std::vector<Slot> old = std::move(slots_);
    slots_.assign(std::bit_ceil(wanted < 16 ? std::size_t{16} : wanted), {});
    shift_ = 64 - std::countr_zero(slots_.size());
    for (const Slot& slot : old) {
      if (slot.key != kNone) slots_[find_slot(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  std::size_t count_ = 0;
  int shift_ = 60;
};

}  // namespace trireme::text
