// A set of byte strings, for finding which of them start at a position. Filled once, then read by many
// threads.
#pragma once
#include <string_view>

#include "text/flat_map.h"

namespace trireme::text {

class Trie {
 public:
  Trie() : nodes_(1, kNoValue) {}

  // REQUIRES: !key.empty(). A key that is there gets the new value.
  void insert(std::string_view key, u32 value) {
    u32 node = 0;
    for (const char c : key) {
      const u64 edge = edge_of(node, c);
      u64 next = edges_.find(edge);
      if (next == FlatMap::kNone) {
        next = nodes_.size();
        nodes_.push_back(kNoValue);
        edges_.insert(edge, next);
      }
      node = static_cast<u32>(next);
    }
    nodes_[node] = value;
    starts_[static_cast<u8>(key[0])] = true;
  }
  bool empty() const { return nodes_.size() == 1; }
  bool starts_with(char c) const { return starts_[static_cast<u8>(c)]; }

  // Calls visit(length, value) for every key that is a prefix of text, shortest first.
  template <class Visit>
  void prefixes(std::string_view text, Visit&& visit) const {
    u32 node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const u64 next = edges_.find(edge_of(node, text[i]));
      if (next == FlatMap::kNone) return;
      node = static_cast<u32>(next);
      if (nodes_[node] != kNoValue) visit(i + 1, nodes_[node]);
    }
  }

  struct Match {
    std::size_t length = 0;  // 0: none
    u32 value = 0;
  };
  Match longest(std::string_view text) const {
    Match best;
    prefixes(text, [&best](std::size_t length, u32 value) { best = {length, value}; });
    return best;
  }

 private:
  static constexpr u32 kNoValue = ~u32{0};
  static u64 edge_of(u32 node, char c) { return u64{node} << 8 | static_cast<u8>(c); }

  FlatMap edges_;
  std::vector<u32> nodes_;  // the value of the key that ends here, or kNoValue
  bool starts_[256] = {};
};

}  // namespace trireme::text
