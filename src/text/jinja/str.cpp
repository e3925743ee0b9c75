#include "text/jinja/str.h"

#include <algorithm>

namespace trireme::text::jinja {

void Str::append(std::string_view text, bool trusted) {
  if (!trusted && !text.empty()) {
    if (!outside_.empty() && outside_.back().end == text_.size()) {
      outside_.back().end += text.size();
    } else {
      outside_.push_back({text_.size(), text_.size() + text.size()});
    }
  }
  text_.append(text);
}

void Str::append(const Str& other, std::size_t begin, std::size_t end) {
  auto r = std::partition_point(other.outside_.begin(), other.outside_.end(),
                                [begin](const ByteRange& x) { return x.end <= begin; });
  std::size_t at = begin;
  const std::string_view all(other.text_);
  for (; r != other.outside_.end() && r->begin < end; ++r) {
    const std::size_t from = std::max(r->begin, begin), to = std::min(r->end, end);
    append(all.substr(at, from - at), true);
    append(all.substr(from, to - from), false);
    at = to;
  }
  append(all.substr(at, end - at), true);
}

Str Str::substr(std::size_t begin, std::size_t end) const {
  Str out;
  out.append(*this, begin, end);
  return out;
}

}  // namespace trireme::text::jinja
