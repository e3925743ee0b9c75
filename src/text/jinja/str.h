// A string that knows which of its bytes came from outside (message values), through every operation on it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace trireme::text::jinja {

class Str {
 public:
  Str() = default;
  Str(std::string_view text, bool trusted) : text_(text) {
    if (!trusted && !text.empty()) outside_.push_back({0, text.size()});
  }

  const std::string& text() const { return text_; }
  std::size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  bool trusted() const { return outside_.empty(); }
  // Sorted, disjoint, not touching.
  const std::vector<ByteRange>& outside() const { return outside_; }
  // Calls visit(part, trusted) for the maximal parts in order.
  template <class Visit>
  void for_each_part(Visit&& visit) const {
    std::size_t done = 0;
    const std::string_view all(text_);
    for (const ByteRange& r : outside_) {
      if (r.begin > done) visit(all.substr(done, r.begin - done), true);
      visit(all.substr(r.begin, r.end - r.begin), false);
      done = r.end;
    }
    if (done < all.size()) visit(all.substr(done), true);
  }

  void append(std::string_view text, bool trusted);
  void append(const Str& other) { append(other, 0, other.size()); }
  // Bytes [begin, end) of other. REQUIRES: &other != this.
  void append(const Str& other, std::size_t begin, std::size_t end);
  Str substr(std::size_t begin, std::size_t end) const;

 private:
  std::string text_;
  std::vector<ByteRange> outside_;
};

}  // namespace trireme::text::jinja
